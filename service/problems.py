"""Turns every error into problem+json: ours, the framework's and the unforeseen."""

import logging
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from schemas.base import canonical_bytes
from schemas.errors import (
    BadBody,
    Fault,
    FaultlineError,
    InvalidRequest,
    MethodNotAllowed,
    NotAuthenticated,
    NotFound,
    TooManyRequests,
    Unavailable,
)
from schemas.problem import MEDIA_TYPE, Problem, build_problem
from schemas.validation import describe_expected
from service.metrics import note_refusal
from service.reports import NoReport
from storage.resumable import OffsetConflict

logger = logging.getLogger("faultline.service")
RETRY_AFTER_S = 2
MAX_SHOWN = 200
CHALLENGE = 'Bearer realm="faultline"'


def answer_problem(problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    """Return `problem` as a response; no cache keeps it."""
    note_refusal(problem.code)
    content = canonical_bytes(problem)
    return Response(content, problem.status, {"cache-control": "no-store", **(headers or {})}, MEDIA_TYPE)


def answer_error(error: FaultlineError) -> Response:
    """Return the problem of `error`, with Retry-After where trying again helps."""
    return answer_problem(build_problem(error), _choose_headers(error))


def _choose_headers(error: FaultlineError) -> dict[str, str]:
    if isinstance(error, TooManyRequests):
        return {"retry-after": str(error.retry_after_s)}
    if error.status == Unavailable.status:
        return {"retry-after": str(RETRY_AFTER_S)}
    return {"www-authenticate": CHALLENGE} if error.status == NotAuthenticated.status else {}


def answer_unforeseen(error: Exception) -> Response:
    """Log `error` under a new id and return a problem that tells the id and nothing else."""
    incident = uuid4().hex
    logger.error("incident %s", incident, exc_info=error)
    advice = f"Report incident {incident} to the operator of this server, whose log explains it."
    return answer_error(FaultlineError(Fault(f"an internal error, incident {incident}", "", "an answer", "a failure", advice)))


def add_problem_handlers(app: FastAPI) -> None:
    """Make `app` answer every error with a problem."""
    app.add_exception_handler(FaultlineError, _handle_ours)
    app.add_exception_handler(NoReport, _handle_no_report)
    app.add_exception_handler(OffsetConflict, _handle_offset)
    app.add_exception_handler(RequestValidationError, _handle_parameters)
    app.add_exception_handler(HTTPException, _handle_framework)
    app.add_exception_handler(RedisError, _handle_broker)
    app.add_exception_handler(ClientDisconnect, _handle_disconnect)


async def _handle_ours(_: Request, error: Exception) -> Response:
    return answer_error(error) if isinstance(error, FaultlineError) else answer_unforeseen(error)


async def _handle_offset(_: Request, error: Exception) -> Response:
    if not isinstance(error, OffsetConflict):
        return answer_unforeseen(error)
    return answer_problem(build_problem(error), {"upload-offset": str(error.offset)})


async def _handle_no_report(_: Request, error: Exception) -> Response:
    return answer_problem(error.problem) if isinstance(error, NoReport) else answer_unforeseen(error)


async def _handle_broker(_: Request, error: Exception) -> Response:
    return answer_broker(error)


def answer_broker(error: Exception) -> Response:
    """Return the problem of a store that does not answer."""
    logger.warning("the broker does not answer: %s", error)
    fault = Fault(
        "the job store does not answer", "", "an answer from the broker", type(error).__name__, "Try again in a moment."
    )
    return answer_error(Unavailable(fault))


async def _handle_disconnect(_: Request, error: Exception) -> Response:
    logger.info("the client went away while sending: %r", error)
    return answer_error(BadBody(Fault("the body ended early", "", "the whole body", "a closed connection", "Send it again.")))


async def _handle_framework(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else FaultlineError.status
    path = request.url.path
    if status == NotFound.status:
        return answer_error(
            NotFound(Fault(f"there is nothing at {path}", "", "a route of this API", path, "GET /v1 lists the routes."))
        )
    if status == MethodNotAllowed.status:
        allowed = ", ".join(request.app.state.methods.find(path))
        fault = Fault(f"{path} does not take {request.method}", "", allowed, request.method, "Use one of the methods in Allow.")
        return answer_problem(build_problem(MethodNotAllowed(fault)), {"allow": allowed})
    return answer_unforeseen(error)


async def _handle_parameters(_: Request, error: Exception) -> Response:
    entries = error.errors() if isinstance(error, RequestValidationError) else []
    return answer_error(InvalidRequest(*(_explain_parameter(entry) for entry in entries)))


def _explain_parameter(entry: dict[str, Any]) -> Fault:
    """Return the fault of a path, query or header parameter; `where` names its kind, for it has no JSON pointer."""
    kind, *rest = (str(part) for part in entry["loc"])
    name = ".".join(rest)
    if entry["type"] == "extra_forbidden":
        advice = "Remove it; the OpenAPI document lists the parameters."
        return Fault(f"there is no {kind} parameter {name}", f"{kind}: {name}", "a known parameter", name, advice)
    expected = describe_expected(entry["type"], entry["msg"], entry.get("ctx", {}), {})
    got = "nothing" if entry["type"] == "missing" else str(entry["input"])[:MAX_SHOWN] or "an empty text"
    what = f"the {kind} parameter {name} must be {expected}"
    return Fault(what, f"{kind}: {name}", expected, got, "Correct the parameter; the OpenAPI document describes it.")
