"""Uploads and downloads of files by their sha-256."""

from typing import Annotated

from fastapi import Header, Path, Request, Response

from schemas.artifact import Artifact
from schemas.errors import BadBody, DigestMismatch, InvalidRequest, NotFound, QuotaExceeded, TooLarge, UnsupportedMedia
from service.answers import answer_model
from service.downloads import answer_file, open_artifact
from service.identity import Owner
from service.openapi import examples
from service.openapi.declare import OCTETS, answers, answers_bytes, answers_nothing, refuses, takes_bytes
from service.resources import Held
from service.routes.router import make_router
from service.uploads import ARTIFACTS, receive_artifact

router = make_router("artifacts")

Sha256 = Annotated[
    str, Path(pattern="^[0-9a-f]{64}$", description="sha-256 of the file, lower case", examples=[examples.MODEL_SHA256])
]
IfNoneMatch = Annotated[str | None, Header(alias="If-None-Match", description="Entity tags that the caller holds.")]
ABSENT = refuses(NotFound, InvalidRequest)
HELD = answers_nothing(304, "The caller holds it.", "ETag")


@router.put(
    ARTIFACTS + "/{sha256}",
    openapi_extra=takes_bytes("The file. It is hashed while it arrives and kept only if it is what the path names."),
    responses=answers(200, "It was stored before.", Artifact, examples.ARTIFACT)
    | answers(201, "It is stored.", Artifact, examples.ARTIFACT)
    | refuses(BadBody, DigestMismatch, InvalidRequest, QuotaExceeded, TooLarge, UnsupportedMedia),
)
async def put_artifact(sha256: Sha256, request: Request, owner: Owner, held: Held) -> Response:
    """Store a model or data file under its sha-256; sending it again changes nothing."""
    artifact, is_new = await receive_artifact(held, owner, sha256, request)
    return answer_model(artifact, 201 if is_new else 200)


@router.head(ARTIFACTS + "/{sha256}", responses=answers_nothing(200, "It is stored.", "ETag", "Repr-Digest") | HELD | ABSENT)
async def head_artifact(sha256: Sha256, owner: Owner, held: Held, if_none_match: IfNoneMatch = None) -> Response:
    """Tell whether a file is stored, so that it need not be sent again."""
    file = await open_artifact(held.artifacts, owner, sha256)
    return answer_file(file, sha256, OCTETS, if_none_match, headers_only=True)


@router.get(ARTIFACTS + "/{sha256}", responses=answers_bytes(200, "The file.", "ETag", "Repr-Digest") | HELD | ABSENT)
async def get_artifact(sha256: Sha256, owner: Owner, held: Held, if_none_match: IfNoneMatch = None) -> Response:
    """Return a stored file, such as a counterexample that a report names."""
    file = await open_artifact(held.artifacts, owner, sha256)
    return answer_file(file, sha256, OCTETS, if_none_match)
