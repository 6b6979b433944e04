"""Glances: whose a job is and at which revision, for many callers at once in one round trip."""

import asyncio
from typing import Any, NamedTuple

import redis.asyncio

from storage.connection import reaching_store
from storage.scripts import KEY_PREFIX


class Glance(NamedTuple):
    """What decides whether an answer that was written before is still right, and for whom."""

    owner: str
    revision: int


class Glances:
    """Calls that come while the store is being asked wait for the next round trip, so each sees the store after it began."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client
        self._waiting: dict[str, asyncio.Future[Glance | None]] = {}
        self._rounds: asyncio.Task[None] | None = None

    async def look(self, id: str) -> Glance | None:
        """Return whose job this is and its revision, None without one.

        Raises:
            Unavailable: when the store is out of reach.

        """
        found = self._waiting.get(id)
        if found is None:
            found = self._waiting[id] = asyncio.get_running_loop().create_future()
        if self._rounds is None or self._rounds.done():
            self._rounds = asyncio.create_task(self._ask_on(), name="glances")
        # Several callers may wait for one future: a caller that hangs up must not cancel it for the others.
        return await asyncio.shield(found)

    async def _ask_on(self) -> None:
        while self._waiting:
            asked, self._waiting = self._waiting, {}
            try:
                replies = await self._ask(list(asked))
            except Exception as error:  # noqa: BLE001 - whatever it is, it is every caller's answer
                _answer(asked, error)
            else:
                for future, reply in zip(asked.values(), replies, strict=True):
                    if not future.done():
                        future.set_result(_read(reply))

    async def _ask(self, ids: list[str]) -> list[Any]:
        with reaching_store():
            pipeline: Any = self._client.pipeline(transaction=False)
            for id in ids:
                pipeline.hmget(f"{KEY_PREFIX}job:{id}", "owner", "revision")
            return list(await pipeline.execute())


def _answer(asked: dict[str, asyncio.Future[Glance | None]], error: Exception) -> None:
    for future in asked.values():
        if not future.done():
            future.set_exception(error)
            future.exception()  # a future whose caller has hung up must not complain that nobody looked


def _read(reply: list[bytes | None]) -> Glance | None:
    owner, revision = reply
    return None if owner is None or revision is None else Glance(owner.decode(), int(revision))
