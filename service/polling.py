"""Finds jobs and waits for them to change."""

import asyncio
from contextlib import AbstractAsyncContextManager

from schemas.errors import Conflict, Fault, NotFound
from schemas.job import TERMINAL_STATES, JobKind
from service.conditional import format_etag, matches_etag
from service.observe import note_wait
from storage.queue import JobQueue
from storage.records import JobRecord

Stop = AbstractAsyncContextManager["asyncio.Task[object]"]


async def find_job(queue: JobQueue, audit_id: str, owner: str, kind: JobKind = "audit") -> JobRecord:
    """Return the owner's job of this kind.

    Raises:
        NotFound: if the owner has no such job.

    """
    record = await queue.get(audit_id, owner)
    if record is None or record.kind != kind:
        raise NotFound(find_nothing(audit_id, "path: audit_id"))
    return record


async def cancel_job(queue: JobQueue, audit_id: str, owner: str) -> JobRecord:
    """Return the owner's job with its cancellation noted.

    Raises:
        NotFound: if the owner has no such job.
        Conflict: if it has ended.

    """
    await find_job(queue, audit_id, owner)
    try:
        record = await queue.cancel(audit_id, owner)
    except Conflict as error:
        what, got = error.faults[0].what, error.faults[0].got
        advice = "There is nothing left to cancel; GET shows how it ended."
        raise Conflict(Fault(what, "path: audit_id", "an audit that is queued or running", got, advice)) from error
    if record is None:
        raise NotFound(find_nothing(audit_id, "path: audit_id"))
    return record


def find_nothing(audit_id: str, where: str) -> Fault:
    """Return the fault of an audit id that leads nowhere."""
    return Fault("there is no such audit", where, "the id of an audit", audit_id, "GET /v1/audits lists them.")


def is_awaited(record: JobRecord, if_none_match: str | None) -> bool:
    """Tell whether a patient caller would rather wait than have `record` now."""
    # With If-None-Match the caller waits for any change of what it holds, without it for the end.
    # An ended job does not change any more, so nobody waits for it.
    if record.state in TERMINAL_STATES:
        return False
    return if_none_match is None or matches_etag(if_none_match, format_etag(record.revision))


async def wait_for_job(queue: JobQueue, record: JobRecord, if_none_match: str | None, wait_s: float, stop: Stop) -> JobRecord:
    """Return the job once it is no longer awaited, when time is up, or when `stop` says that nobody waits any more."""
    note_wait()
    deadline = asyncio.get_running_loop().time() + wait_s
    async with stop as stopped:
        while is_awaited(record, if_none_match) and not stopped.done():
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                break
            change = asyncio.ensure_future(queue.wait_for_change(record.id, record.revision, left))
            try:
                await asyncio.wait({change, stopped}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                change.cancel()
                await asyncio.gather(change, return_exceptions=True)
            record = await find_job(queue, record.id, record.owner, record.kind)
    return record
