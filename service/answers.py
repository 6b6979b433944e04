"""Builds the responses that routes share."""

from collections.abc import Mapping

from fastapi import Response
from pydantic import BaseModel

from schemas.job import TERMINAL_STATES, Job
from service.conditional import format_etag, matches_etag

FRESH = {"cache-control": "private, no-cache"}


def answer_model(model: BaseModel, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return `model` as JSON."""
    return Response(model.model_dump_json(), status, {**FRESH, **(headers or {})}, "application/json")


def answer_job(job: Job, if_none_match: str | None, granted_wait_s: int | None) -> Response:
    """Return the job with its revision as entity tag, or 304 when the caller holds that revision."""
    headers = {"etag": format_etag(job.revision)}
    if granted_wait_s is not None:
        headers["preference-applied"] = f"wait={granted_wait_s}"
    if job.state not in TERMINAL_STATES:
        headers["retry-after"] = "1"
    if matches_etag(if_none_match, headers["etag"]):
        return Response(status_code=304, headers={**FRESH, **headers})
    return answer_model(job, headers=headers)


def answer_accepted(job: Job) -> Response:
    """Return 202 with the job and where to ask for it."""
    wait_s = "0" if job.state in TERMINAL_STATES else "1"
    return answer_model(job, 202, {"location": job.links["self"], "retry-after": wait_s})
