"""Plans and inspections: their result itself is the answer, as soon as a worker has found it; until then their job."""

import asyncio

from fastapi import Request, Response

from schemas.job import TERMINAL_STATES, JobKind
from service.answers import answer_accepted
from service.conditional import read_wait
from service.downloads import answer_file
from service.openapi.declare import JSON
from service.patience import watch_caller
from service.polling import find_job, wait_for_job
from service.presentation import build_job
from service.reports import open_report, read_report_digest
from service.resources import Resources
from service.submission import read_submission, ring, submit
from storage.records import JobRecord


async def answer_posted(request: Request, owner: str, held: Resources, kind: JobKind, prefer: str | None) -> Response:
    """Accept the posted request and answer with its result, if it comes within the wait that was asked for, else with its job."""
    posted, key = await read_submission(request, held.settings.max_request_bytes, kind)
    accepted = await submit(held, owner, posted, key, kind)
    if accepted.created and accepted.record.state == "queued":
        await asyncio.to_thread(ring, held.doorbell, accepted.record.id, accepted.record.device)
    return await _answer(request, held, accepted.record, prefer, None)


async def answer_asked(
    request: Request, owner: str, held: Resources, kind: JobKind, job_id: str, prefer: str | None, if_none_match: str | None
) -> Response:
    """Answer with the result of a job that was posted before, or with the job."""
    record = await find_job(held.queue, job_id, owner, kind)
    return await _answer(request, held, record, prefer, if_none_match)


async def _answer(
    request: Request, held: Resources, record: JobRecord, prefer: str | None, if_none_match: str | None
) -> Response:
    wait_s = read_wait(prefer, held.settings.max_wait_s)
    if wait_s:
        record = await wait_for_job(held.queue, record, None, wait_s, watch_caller(request, held.draining))
    if record.state not in TERMINAL_STATES:
        return answer_accepted(build_job(record))
    file = await open_report(held.artifacts, record)
    response = answer_file(file, read_report_digest(record), JSON, if_none_match)
    response.headers["content-location"] = build_job(record).links["self"]
    return response
