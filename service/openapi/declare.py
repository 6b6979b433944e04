"""Declares what a route takes and answers, in the words of OpenAPI."""

from typing import Any

from pydantic import BaseModel

from schemas.errors import Fault, FaultlineError, NotAuthenticated, TooManyRequests, Unavailable
from schemas.problem import MEDIA_TYPE, Problem, build_problem
from service.openapi.components import refer_to

Responses = dict[int | str, dict[str, Any]]
JSON = "application/json"
OCTETS = "application/octet-stream"
EVENTS = "text/event-stream"

HEADERS: dict[str, str] = {
    "ETag": "Strong entity tag: the revision of a job, the sha-256 of a file or report.",
    "Location": "Path of the job, upload or artifact.",
    "Retry-After": "Seconds to wait before the next request.",
    "Preference-Applied": "The wait that was granted, such as wait=60.",
    "Link": 'Path of the following page, rel="next"; absent on the last one.',
    "Content-Location": "Path under which the result is found again.",
    "Repr-Digest": "Digest of the bytes as in RFC 9530.",
    "WWW-Authenticate": "What is asked for: a bearer token.",
    "Upload-Offset": "How many bytes of the file are stored.",
    "Upload-Length": "How many bytes the file has.",
    "Upload-Complete": "?1 when the file is stored as an artifact, else ?0.",
    "Upload-Limit": "max-size: bytes of the largest file; max-age: seconds after which an idle upload is removed.",
    "Faultline-Trace-Id": "The trace that the audit belongs to, as in its job; absent for audits of earlier versions.",
    "Allow": "The methods that the path takes.",
}

HEADERS_OF = {
    NotAuthenticated.status: ("WWW-Authenticate",),
    TooManyRequests.status: ("Retry-After",),
    Unavailable.status: ("Retry-After",),
}


def answers(status: int, description: str, model: type[BaseModel], example: object, *headers: str) -> Responses:
    """Return the declaration of a JSON answer."""
    content = {JSON: {"schema": refer_to(model), "example": example}}
    return {status: {"description": description, "content": content, **_declare_headers(headers)}}


def answers_bytes(status: int, description: str, *headers: str) -> Responses:
    """Return the declaration of an answer that is a file."""
    content = {OCTETS: {"schema": {"type": "string", "format": "binary"}}}
    return {status: {"description": description, "content": content, **_declare_headers(headers)}}


def answers_nothing(status: int, description: str, *headers: str) -> Responses:
    """Return the declaration of an answer without a body."""
    return {status: {"description": description, **_declare_headers(headers)}}


def refuses(*errors: type[FaultlineError]) -> Responses:
    """Return the declarations of the problems that a route can answer; one status may stand for several errors."""
    return declare_problems(*errors, FaultlineError, Unavailable)


def declare_problems(*errors: type[FaultlineError]) -> Responses:
    """Return the declarations of these problems."""
    by_status: dict[int | str, list[type[FaultlineError]]] = {}
    for error in errors:
        by_status.setdefault(error.status, []).append(error)
    return {status: _declare_problem(same) for status, same in by_status.items()}


def takes(model: type[BaseModel], example: object) -> dict[str, Any]:
    """Return the declaration of a JSON body."""
    return {"requestBody": {"required": True, "content": {JSON: {"schema": refer_to(model), "example": example}}}}


def takes_bytes(description: str, *media_types: str) -> dict[str, Any]:
    """Return the declaration of a body that is a file, or a part of one."""
    content = {media_type: {"schema": {"type": "string", "format": "binary"}} for media_type in media_types or (OCTETS,)}
    return {"requestBody": {"required": True, "description": description, "content": content}}


def _declare_problem(errors: list[type[FaultlineError]]) -> dict[str, Any]:
    examples = {error.code: {"value": _show_problem(error)} for error in errors}
    description = "; ".join(dict.fromkeys(error.title for error in errors))
    content = {MEDIA_TYPE: {"schema": refer_to(Problem), "examples": examples}}
    headers = HEADERS_OF.get(errors[0].status, ())
    return {"description": description, "content": content, **_declare_headers(headers)}


def _show_problem(error: type[FaultlineError]) -> dict[str, Any]:
    fault = Fault("what is wrong", "/where/0", "what would be right", "what came", "what to do")
    return build_problem(error(fault)).model_dump(mode="json")


def _declare_headers(names: tuple[str, ...]) -> dict[str, Any]:
    return {"headers": {name: {"description": HEADERS[name], "schema": {"type": "string"}} for name in names}} if names else {}
