"""Server-sent events of a job: what it is now and after every change, until it has ended."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from schemas.errors import NotAuthenticated
from schemas.job import TERMINAL_STATES
from service.polling import Stop, find_job
from service.presentation import build_job
from storage.queue import JobQueue
from storage.records import JobRecord

HEARTBEAT_S = 15.0
"""A comment after so much silence keeps proxies from closing the connection."""
COME_BACK_MS = 1000


def is_last(record: JobRecord, last_event_id: str | None) -> bool:
    """Tell whether the caller has seen the end: there is nothing left to stream."""
    return record.state in TERMINAL_STATES and last_event_id == str(record.revision)


async def stream_events(queue: JobQueue, record: JobRecord, last_event_id: str | None, stop: Stop) -> AsyncIterator[bytes]:
    """Yield the job's events from now on; ids are revisions, so the caller says by the last one where to go on.

    Ends after the job's end, and when `stop` says that nobody listens or the process goes down; then the caller comes back.
    """
    seen = last_event_id
    yield f"retry: {COME_BACK_MS}\n\n".encode()
    with contextlib.suppress(NotAuthenticated):  # the key ended: the stream does too, and coming back is refused
        async with stop as stopped:
            while not stopped.done():
                if str(record.revision) != seen:
                    seen = str(record.revision)
                    yield f"id: {seen}\nevent: job\ndata: {build_job(record).model_dump_json()}\n\n".encode()
                if record.state in TERMINAL_STATES:
                    return
                if not await _wait(queue, record, stopped) and not stopped.done():
                    yield b": still here\n\n"
                record = await find_job(queue, record.id, record.owner, record.kind)


async def _wait(queue: JobQueue, record: JobRecord, stopped: "asyncio.Task[object]") -> bool:
    """Return whether the job changed before the next heartbeat is due."""
    change = asyncio.ensure_future(queue.wait_for_change(record.id, record.revision, HEARTBEAT_S))
    try:
        await asyncio.wait({change, stopped}, return_when=asyncio.FIRST_COMPLETED)
        return change.done() and change.result()
    finally:
        change.cancel()
        await asyncio.gather(change, return_exceptions=True)
