"""Makes sure that a job that was just accepted has its files, although unused ones are removed all the time.

storage/collection.py removes nothing that was used after it began to look through the jobs. So what a job needs is used once
more when its record stands: either it is there, and stays as long as the job needs it, or the job is taken back.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from schemas.errors import Conflict, Fault, InvalidRequest, Unavailable
from schemas.kinds import JobRequest
from storage.artifacts import ArtifactStore
from storage.queue import Accepted, JobQueue
from storage.records import JobRecord
from storage.references import touch_results

ARTIFACT = "artifact:sha256:"
ATTEMPTS = 5


async def accept_with_files(
    queue: JobQueue, store: ArtifactStore, request: JobRequest, accept: Callable[[], Awaitable[Accepted]]
) -> Accepted:
    """Return the accepted job, whose files are there and stay there.

    Raises:
        InvalidRequest: when a file was removed just before; the job is cancelled then.
        Unavailable: when equal audits are deleted faster than this one can be accepted.

    """
    for _ in range(ATTEMPTS):
        accepted = await accept()
        record = accepted.record
        if not accepted.created or record.state not in {"queued", "succeeded"}:
            return accepted
        if record.report_sha256 is None:
            await _hold_inputs(queue, store, record, request)
            return accepted
        if await asyncio.to_thread(touch_results, store, record.owner, record.report_sha256):
            return accepted
        # The report of the equal audit is gone. Nobody has been told of this job yet; without it, the next one runs.
        await queue.purge(record.id, record.owner)
    raise Unavailable(Fault("equal audits are being deleted", "", "a report or none", "both in turn", "Try again in a moment."))


async def _hold_inputs(queue: JobQueue, store: ArtifactStore, record: JobRecord, request: JobRequest) -> None:
    faults = []
    for part, uri, pinned in request.list_references():
        is_upload = uri.startswith(ARTIFACT)
        sha256 = uri.removeprefix(ARTIFACT) if is_upload else pinned
        found = None if sha256 is None else await asyncio.to_thread(store.touch, record.owner, sha256)
        if is_upload and found is None:  # what is not an upload is fetched, unless it was before
            what, expected = f"the {part} was removed just now", "an artifact in the store"
            faults.append(Fault(what, f"/{part}/uri", expected, uri, "Upload the file again, then post the request again."))
    if faults:
        with contextlib.suppress(Conflict):  # a worker was quicker and found the same
            await queue.cancel(record.id, record.owner)
        raise InvalidRequest(*faults)
