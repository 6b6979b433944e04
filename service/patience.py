"""Notices that nobody waits for an answer any more."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Request

from schemas.errors import Fault, NotAuthenticated

LOOK_S = 600.0


@asynccontextmanager
async def watch_caller(request: Request, draining: asyncio.Event) -> AsyncIterator["asyncio.Task[object]"]:
    """Give a task that is done when the caller hung up, its key ended or this process was told to stop.

    Yields:
        The task.

    Raises:
        NotAuthenticated: when it was the key that ended.

    """
    key_ended = asyncio.ensure_future(_wait_for_end_of_key(request))
    causes = [asyncio.ensure_future(_wait_for_disconnect(request)), asyncio.ensure_future(_wait_for_event(draining)), key_ended]
    stopped: asyncio.Task[object] = asyncio.create_task(_wait_for_first(causes))
    try:
        yield stopped
    finally:
        has_ended = key_ended.done()
        for task in (*causes, stopped):
            task.cancel()
    if has_ended:
        advice = "Use its successor, or ask an admin."
        raise NotAuthenticated(Fault("the key ended during the wait", "header: Authorization", "a live key", "its end", advice))


async def _wait_for_first(causes: list["asyncio.Task[None]"]) -> None:
    await asyncio.wait(causes, return_when=asyncio.FIRST_COMPLETED)


async def _wait_for_end_of_key(request: Request) -> None:
    """Wait for ever where no key was shown."""
    caller, keys = request.state.caller, request.app.state.resources.keys
    if caller.key_id is None:
        await asyncio.Event().wait()
    while not await keys.wait_for_end(caller.key_id, LOOK_S):
        pass


async def _wait_for_event(event: asyncio.Event) -> None:
    await event.wait()


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
