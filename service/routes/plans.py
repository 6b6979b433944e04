"""Plans: what an audit would cost, and inspections: what is inside a model. Neither searches for anything."""

from typing import Annotated

from fastapi import Header, Path, Request, Response

from schemas.errors import (
    BadBody,
    Conflict,
    IdempotencyMismatch,
    InvalidRequest,
    NotFound,
    QuotaExceeded,
    TooLarge,
    UnsupportedMedia,
)
from schemas.inspection import Inspection, InspectionRequest
from schemas.job import Job
from schemas.plan import PlanAnswer
from schemas.request import AuditRequest
from service.identity import Owner
from service.openapi import examples, previews
from service.openapi.declare import answers, answers_nothing, refuses, takes
from service.presentation import AUDITS, INSPECTIONS, PLANS
from service.resources import Held
from service.results import answer_asked, answer_posted
from service.routes.audits import IfNoneMatch, Key
from service.routes.router import make_router

router = make_router("plans")

JobId = Annotated[str, Path(description="Id of the plan or inspection.", examples=[examples.AUDIT_ID])]
Prefer = Annotated[
    str | None, Header(alias="Prefer", description="RFC 7240: wait=N asks to be answered with the result, within N seconds.")
]
QUEUED = answers(202, "The job; its result is not there yet.", Job, previews.PLAN_JOB, "Location", "Retry-After")
SAME = answers_nothing(304, "The caller holds this result.", "ETag")
POSTED = refuses(BadBody, Conflict, InvalidRequest, IdempotencyMismatch, QuotaExceeded, TooLarge, UnsupportedMedia)
PLAN = answers(200, "The plan.", PlanAnswer, previews.PLAN, "ETag", "Repr-Digest", "Content-Location")
INSPECTION = answers(200, "The inspection.", Inspection, previews.INSPECTION, "ETag", "Repr-Digest", "Content-Location")


@router.post(AUDITS + ":plan", openapi_extra=takes(AuditRequest, examples.AUDIT_REQUEST), responses=PLAN | QUEUED | POSTED)
async def post_plan(request: Request, owner: Owner, held: Held, _key: Key = None, prefer: Prefer = None) -> Response:
    """Tell what an audit would cost, or which operators are in its way; what else cannot be done is told whole (409)."""
    return await answer_posted(request, owner, held, "plan", prefer)


@router.get(PLANS + "/{job_id}", responses=PLAN | QUEUED | SAME | refuses(NotFound, Conflict))
async def get_plan(
    job_id: JobId, request: Request, owner: Owner, held: Held, if_none_match: IfNoneMatch = None, prefer: Prefer = None
) -> Response:
    """Return a plan, or its job while it is not there yet; 409 carries the problem of one that could not be made."""
    return await answer_asked(request, owner, held, "plan", job_id, prefer, if_none_match)


@router.post(
    "/v1/models:inspect",
    openapi_extra=takes(InspectionRequest, previews.INSPECTION_REQUEST),
    responses=INSPECTION | QUEUED | POSTED,
)
async def post_inspection(request: Request, owner: Owner, held: Held, _key: Key = None, prefer: Prefer = None) -> Response:
    """Tell what is inside a model: inputs, outputs, weights and their roles, operators, parity with the runtime."""
    return await answer_posted(request, owner, held, "inspection", prefer)


@router.get(INSPECTIONS + "/{job_id}", responses=INSPECTION | QUEUED | SAME | refuses(NotFound, Conflict))
async def get_inspection(
    job_id: JobId, request: Request, owner: Owner, held: Held, if_none_match: IfNoneMatch = None, prefer: Prefer = None
) -> Response:
    """Return an inspection, or its job while it is not there yet; 409 carries the problem of one that could not be made."""
    return await answer_asked(request, owner, held, "inspection", job_id, prefer, if_none_match)
