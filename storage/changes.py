"""ChangeFeed: one pub/sub connection per process that wakes whoever waits for a job."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Final

import redis.asyncio
from redis.exceptions import ConnectionError as StoreConnectionError
from redis.exceptions import RedisError

from schemas.errors import Unavailable

logger = logging.getLogger("faultline.storage")

SILENCE_S: Final = 5.0
"""After this much silence the connection has to prove that it lives."""
LONGEST_PAUSE_S: Final = 1.0
LOOKS_AT_ONCE: Final = 16
"""When all are woken, they take turns: a thousand of them must not open a thousand connections."""


class ChangeFeed:
    """Messages are hints only: a waiter that is woken looks for itself, and all are woken when messages may have been lost."""

    def __init__(self, client: redis.asyncio.Redis, channel: str, silence_s: float = SILENCE_S) -> None:
        self._client = client
        self._silence_s = silence_s
        self._channel = channel
        self._waiters: dict[str, set[asyncio.Event]] = {}
        self._subscribed = asyncio.Event()
        self._turns = asyncio.Semaphore(LOOKS_AT_ONCE)
        self._listener: asyncio.Task[None] | None = None

    async def wait(self, id: str, has_changed: Callable[[], Awaitable[bool]], timeout_s: float) -> bool:
        """Return True once `has_changed` says so, False when time is up; outages of the store are waited out."""
        if self._listener is None or self._listener.done():
            self._listener = asyncio.create_task(self._listen(), name="change-feed")
        woken = asyncio.Event()
        self._waiters.setdefault(id, set()).add(woken)
        try:
            async with asyncio.timeout(timeout_s):
                # Looking before the subscription stands could miss a change between the two.
                await self._subscribed.wait()
                while not await self._look(has_changed):
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(woken.wait(), self._silence_s)
                    woken.clear()
            return True
        except TimeoutError:
            return False
        finally:
            self._waiters[id].discard(woken)
            if not self._waiters[id]:
                del self._waiters[id]

    @property
    def waiting(self) -> int:
        """How many callers wait at the moment."""
        return sum(map(len, self._waiters.values()))

    async def close(self) -> None:
        """Stop listening."""
        if self._listener is not None:
            self._listener.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._listener
            self._listener = None

    async def _look(self, has_changed: Callable[[], Awaitable[bool]]) -> bool:
        try:
            async with self._turns:
                return await has_changed()
        except Unavailable as error:
            logger.warning("the store cannot be asked for a change, the feed will wake us: %s", error)
            return False

    async def _listen(self) -> None:
        pause_s = 0.05
        while True:
            try:
                async with self._client.pubsub() as pubsub:
                    await pubsub.subscribe(self._channel)
                    while True:
                        await self._dispatch(pubsub)
                        pause_s = 0.05
            except (RedisError, OSError) as error:
                logger.warning("the store's change feed broke, subscribing again in %.2f s: %s", pause_s, error)
                self._subscribed.clear()
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _dispatch(self, pubsub: redis.asyncio.client.PubSub) -> None:
        message = await pubsub.get_message(timeout=self._silence_s)
        if message is None:
            await pubsub.ping()
            message = await pubsub.get_message(timeout=self._silence_s)
            if message is None:
                silent = "no answer to a ping"
                raise StoreConnectionError(silent)
        if message["type"] == "subscribe":
            # Also after a reconnection inside the client: what was published in between is lost.
            self._subscribed.set()
            self._wake(*self._waiters)
        elif message["type"] == "message":
            self._wake(message["data"].decode())

    def _wake(self, *ids: str) -> None:
        for id in ids:
            for woken in self._waiters.get(id, ()):
                woken.set()
