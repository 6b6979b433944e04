"""Notices that nobody waits for an answer any more."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Request


@asynccontextmanager
async def watch_caller(request: Request, draining: asyncio.Event) -> AsyncIterator["asyncio.Task[object]"]:
    """Give a task that is done when the caller hung up or this process was told to stop."""
    causes = [asyncio.ensure_future(_wait_for_disconnect(request)), asyncio.ensure_future(_wait_for_event(draining))]
    stopped: asyncio.Task[object] = asyncio.create_task(_wait_for_first(causes))
    try:
        yield stopped
    finally:
        for task in (*causes, stopped):
            task.cancel()


async def _wait_for_first(causes: list["asyncio.Task[None]"]) -> None:
    await asyncio.wait(causes, return_when=asyncio.FIRST_COMPLETED)


async def _wait_for_event(event: asyncio.Event) -> None:
    await event.wait()


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
