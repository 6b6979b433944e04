"""Audits: submit, look, wait, list, cancel, and read what they found."""

import asyncio
from typing import Annotated

from fastapi import Header, Path, Query, Request, Response
from starlette.background import BackgroundTask

from schemas.errors import (
    BadBody,
    Conflict,
    IdempotencyMismatch,
    InvalidRequest,
    NotAcceptable,
    NotFound,
    QuotaExceeded,
    TooLarge,
    UnsupportedMedia,
)
from schemas.job import Job, JobPage
from schemas.report import Report
from schemas.request import AuditRequest
from schemas.verdict import Verdict
from service.answers import answer_accepted, answer_job, answer_model
from service.conditional import read_wait, wants_async
from service.downloads import answer_file
from service.identity import Owner
from service.judgement import judge_audit, settle_verdict
from service.openapi import examples
from service.openapi.declare import JSON, answers, answers_nothing, refuses, takes
from service.paging import FormatQuery, PageQuery, build_next_link
from service.patience import watch_caller
from service.polling import cancel_job, find_job, wait_for_job
from service.presentation import AUDITS, build_job, find_trace_id
from service.reports import check_acceptable, open_report, read_report_digest
from service.resources import Held
from service.routes.router import make_router
from service.submission import read_submission, ring, submit

router = make_router("audits")

AuditId = Annotated[str, Path(description="Id of the audit.", examples=[examples.AUDIT_ID])]
IfNoneMatch = Annotated[str | None, Header(alias="If-None-Match", description="Entity tags that the caller holds.")]
Prefer = Annotated[
    str | None, Header(alias="Prefer", description="RFC 7240: wait=N asks to be answered when the job changes, or in N seconds.")
]
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="A fresh random value; the same key and body give the same job.",
        examples=[examples.KEY],
    ),
]
SAME = answers_nothing(304, "The caller holds this revision.", "ETag", "Preference-Applied")


@router.post(
    AUDITS,
    status_code=202,
    openapi_extra=takes(AuditRequest, examples.AUDIT_REQUEST),
    responses=answers(
        202,
        "The job; it may be an earlier one, or ended already.",
        Job,
        examples.QUEUED_JOB,
        "Location",
        "Retry-After",
        "Preference-Applied",
    )
    | refuses(BadBody, InvalidRequest, IdempotencyMismatch, QuotaExceeded, TooLarge, UnsupportedMedia),
)
async def post_audit(request: Request, owner: Owner, held: Held, _key: Key = None, prefer: Prefer = None) -> Response:
    """Submit an audit. An equal request that was finished before is answered with its report unless `fresh` is true."""
    audit, key = await read_submission(request, held.settings.max_request_bytes, "audit")
    accepted = await submit(held, owner, audit, key, "audit")
    record, wait_s = accepted.record, read_wait(prefer, held.settings.max_wait_s)
    rings = accepted.created and record.state == "queued"
    if wait_s:
        if rings:
            await asyncio.to_thread(ring, held.doorbell, record.id, record.device)
        record = await wait_for_job(held.queue, record, None, wait_s, watch_caller(request, held.draining))
    response = answer_accepted(build_job(await settle_verdict(held.queue, held.artifacts, record)))
    if wait_s is not None or wants_async(prefer):
        response.headers["preference-applied"] = "respond-async" if wait_s is None else f"wait={wait_s}"
    if rings and not wait_s:
        response.background = BackgroundTask(ring, held.doorbell, record.id, record.device)
    return response


@router.get(
    AUDITS,
    responses=answers(200, "One page, newest first.", JobPage, examples.JOB_PAGE, "Link") | refuses(InvalidRequest),
)
async def list_audits(query: Annotated[PageQuery, Query()], owner: Owner, held: Held) -> Response:
    """List the audits of the caller."""
    records, following = await held.queue.page(owner, query.limit, query.cursor, query.state)
    jobs = tuple([build_job(await settle_verdict(held.queue, held.artifacts, record)) for record in records])
    link = {"link": build_next_link(query, following)} if following is not None else {}
    return answer_model(JobPage(items=jobs, next=following), headers=link)


@router.get(
    AUDITS + "/{audit_id}",
    responses=answers(200, "The job.", Job, examples.SUCCEEDED_JOB, "ETag", "Preference-Applied", "Retry-After")
    | SAME
    | refuses(NotFound),
)
async def get_audit(
    audit_id: AuditId, request: Request, owner: Owner, held: Held, if_none_match: IfNoneMatch = None, prefer: Prefer = None
) -> Response:
    """Show an audit. With `Prefer: wait=N` the answer comes when it ends, or with If-None-Match when it changes."""
    record = await find_job(held.queue, audit_id, owner)
    wait_s = read_wait(prefer, held.settings.max_wait_s)
    if wait_s:
        stop = watch_caller(request, held.draining)
        record = await wait_for_job(held.queue, record, if_none_match, wait_s, stop)
    record = await settle_verdict(held.queue, held.artifacts, record)
    return answer_job(build_job(record), if_none_match, wait_s)


@router.delete(
    AUDITS + "/{audit_id}",
    status_code=202,
    responses=answers(202, "The job; a running one ends soon.", Job, examples.CANCELLED_JOB, "Location", "Retry-After")
    | refuses(NotFound, Conflict),
)
async def cancel_audit(audit_id: AuditId, owner: Owner, held: Held) -> Response:
    """Cancel an audit: a queued one at once, a running one as soon as its worker hears of it."""
    record = await cancel_job(held.queue, audit_id, owner)
    return answer_accepted(build_job(record))


@router.get(
    AUDITS + "/{audit_id}/report",
    responses=answers(200, "The report's canonical bytes.", Report, examples.REPORT, "ETag", "Repr-Digest", "Faultline-Trace-Id")
    | SAME
    | refuses(NotFound, Conflict, NotAcceptable, InvalidRequest),
)
async def get_report(
    audit_id: AuditId,
    query: Annotated[FormatQuery, Query()],
    request: Request,
    owner: Owner,
    held: Held,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Return the report of a succeeded audit; 409 carries the problem of one that ended without."""
    check_acceptable(query.format, request.headers.get("accept"))
    record = await find_job(held.queue, audit_id, owner)
    file = await open_report(held.artifacts, record)
    response = answer_file(file, read_report_digest(record), JSON, if_none_match)
    if (trace_id := find_trace_id(record)) is not None:  # not in the report, which is a function of its request alone
        response.headers["faultline-trace-id"] = trace_id
    return response


@router.get(
    AUDITS + "/{audit_id}/verdict",
    responses=answers(200, "The verdict.", Verdict, examples.VERDICT) | refuses(NotFound, Conflict),
)
async def get_verdict(audit_id: AuditId, owner: Owner, held: Held) -> Response:
    """Judge the report by the policy posted with the audit, with the waivers that hold today."""
    record = await find_job(held.queue, audit_id, owner)
    return answer_model(await judge_audit(held.artifacts, record))
