"""Uploads in several requests, in the terms of the IETF's draft on resumable uploads."""

from typing import Annotated

from fastapi import Header, Path, Request, Response

from schemas.artifact import Artifact
from schemas.errors import BadBody, Conflict, DigestMismatch, InvalidRequest, NotFound, QuotaExceeded, TooLarge, UnsupportedMedia
from schemas.upload import UploadState
from service.answers import answer_model
from service.bodies import read_bounded
from service.identity import Owner
from service.openapi import examples, previews
from service.openapi.declare import answers, answers_nothing, refuses, takes_bytes
from service.resources import Held
from service.resumable import PARTS, UPLOADS, begin_upload, continue_upload, describe_state, find_upload, give_up
from service.routes.router import make_router
from service.uploads import show_artifact
from storage.resumable import Completed

router = make_router("uploads")

UploadId = Annotated[str, Path(description="Id of the upload.", examples=[previews.UPLOAD_ID])]
Length = Annotated[
    str, Header(alias="Upload-Length", pattern="^[0-9]{1,15}$", description="Bytes of the whole file.", examples=["61234"])
]
Offset = Annotated[
    str, Header(alias="Upload-Offset", pattern="^[0-9]{1,15}$", description="Where the body belongs in the file.", examples=["0"])
]
Digest = Annotated[
    str | None,
    Header(alias="Repr-Digest", description="RFC 9530: sha-256 of the whole file.", examples=[previews.REPR_DIGEST]),
]
STATE = ("Upload-Offset", "Upload-Length", "Upload-Complete", "Upload-Limit")


@router.post(
    UPLOADS,
    status_code=201,
    responses=answers(200, "The file is there already.", UploadState, previews.STORED_BEFORE, *STATE)
    | answers(201, "The upload; send the bytes to its Location.", UploadState, previews.UPLOAD, "Location", *STATE)
    | refuses(InvalidRequest, QuotaExceeded, TooLarge),
)
async def post_upload(request: Request, owner: Owner, held: Held, upload_length: Length, repr_digest: Digest = None) -> Response:
    """Begin an upload of a file; with its digest, a file that the caller has stored before is not sent again."""
    async for _ in read_bounded(request, 0):
        pass
    state = await begin_upload(held, owner, int(upload_length), repr_digest)
    headers = describe_state(state.length_bytes, state.offset_bytes, state.artifact, held)
    if state.url is None:
        return answer_model(state, 200, headers)
    return answer_model(state, 201, {"location": state.url, **headers})


@router.get(
    UPLOADS + "/{upload_id}",
    responses=answers(200, "The upload.", UploadState, previews.UPLOAD, *STATE) | refuses(NotFound),
)
async def get_upload(upload_id: UploadId, owner: Owner, held: Held) -> Response:
    """Tell how much of an upload is stored; HEAD tells it in the headers alone."""
    state = await find_upload(held, owner, upload_id)
    return answer_model(state, 200, describe_state(state.length_bytes, state.offset_bytes, state.artifact, held))


@router.patch(
    UPLOADS + "/{upload_id}",
    openapi_extra=takes_bytes("The bytes that follow. As many as arrive are kept, also when the connection breaks.", *PARTS),
    responses=answers(200, "All is there; the file was stored before.", Artifact, examples.ARTIFACT, "Location", *STATE)
    | answers(201, "All is there; the file is stored.", Artifact, examples.ARTIFACT, "Location", *STATE)
    | answers_nothing(204, "The bytes are stored; more are to come.", *STATE)
    | refuses(BadBody, Conflict, DigestMismatch, InvalidRequest, NotFound, TooLarge, UnsupportedMedia),
)
async def patch_upload(upload_id: UploadId, request: Request, owner: Owner, held: Held, upload_offset: Offset) -> Response:
    """Append bytes to an upload, from where it stands (409 tells where). The last ones make it an artifact."""
    done = await continue_upload(held, owner, upload_id, int(upload_offset), request)
    if isinstance(done, Completed):
        artifact = show_artifact(done.sha256, done.size_bytes)
        headers = describe_state(done.size_bytes, done.size_bytes, artifact, held)
        return answer_model(artifact, 201 if done.is_new else 200, {"location": artifact.url, **headers})
    return Response(status_code=204, headers=describe_state(done.length_bytes, done.offset_bytes, None, held))


@router.delete(UPLOADS + "/{upload_id}", status_code=204, responses=answers_nothing(204, "It is gone.") | refuses(NotFound))
async def delete_upload(upload_id: UploadId, owner: Owner, held: Held) -> Response:
    """Give an upload up; the bytes are removed."""
    await give_up(held, owner, upload_id)
    return Response(status_code=204)
