"""The kinds of jobs: the request that each takes, and the digest under which equal ones share a result."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel

from schemas.base import canonical_bytes, compute_sha256
from schemas.inspection import InspectionRequest
from schemas.job import JobKind
from schemas.references import ARTIFACT, read_place
from schemas.request import AuditRequest, echo_request

JobRequest = AuditRequest | InspectionRequest
RequestT = TypeVar("RequestT", bound=BaseModel)
REQUESTS: dict[JobKind, type[AuditRequest] | type[InspectionRequest]] = {
    "audit": AuditRequest,
    "plan": AuditRequest,
    "inspection": InspectionRequest,
}


def compute_request_digest(request: JobRequest, engine_version: str, kind: JobKind = "audit") -> str:
    """Return the sha-256 over everything that decides the result: request echo, engine version, kind.

    Files go in by their digests. One whose digest is not known yet goes in by its place, and nothing equals that digest.
    """
    content: dict[str, Any] = {"request": echo_request(settle_files(request, find_known(request))), "engine": engine_version}
    return compute_sha256(canonical_bytes(content if kind == "audit" else content | {"kind": kind}))


def find_known(request: JobRequest) -> dict[str, str]:
    """Return the digests, by field, of the files whose content the request itself decides: artifacts, and what is pinned."""
    files = request.list_references()
    return {part: sha256 or read_place(uri).name for part, uri, sha256 in files if sha256 is not None or uri.startswith(ARTIFACT)}


def settle_files(request: RequestT, digests: Mapping[str, str]) -> RequestT:
    """Return the request with these files named by their digests: where they came from decides nothing, and may be a secret."""
    for part, sha256 in digests.items():
        request = _settle(request, part.split("/"), sha256)
    return request


def _settle(model: RequestT, path: list[str], sha256: str) -> RequestT:
    inner: BaseModel = getattr(model, path[0])
    if len(path) == 1:
        settled = inner.model_copy(update={"uri": f"{ARTIFACT}{sha256}", "sha256": None})
    else:
        settled = _settle(inner, path[1:], sha256)
    return model.model_copy(update={path[0]: settled})
