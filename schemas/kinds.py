"""The kinds of jobs: the request that each takes, and the digest under which equal ones share a result."""

from typing import Any

from schemas.base import canonical_bytes, compute_sha256
from schemas.inspection import InspectionRequest
from schemas.job import JobKind
from schemas.request import AuditRequest, echo_request

JobRequest = AuditRequest | InspectionRequest
REQUESTS: dict[JobKind, type[AuditRequest] | type[InspectionRequest]] = {
    "audit": AuditRequest,
    "plan": AuditRequest,
    "inspection": InspectionRequest,
}


def compute_request_digest(request: JobRequest, engine_version: str, kind: JobKind = "audit") -> str:
    """Return the sha-256 over everything that decides the result: request echo, engine version, kind."""
    content: dict[str, Any] = {"request": echo_request(request), "engine": engine_version}
    return compute_sha256(canonical_bytes(content if kind == "audit" else content | {"kind": kind}))
