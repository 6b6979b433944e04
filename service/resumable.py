"""Uploads in several requests: begun, continued where they stand, made artifacts when all is there."""

import asyncio
import base64
import binascii
import re
from dataclasses import replace
from typing import Final

from fastapi import Request

from schemas.artifact import Artifact
from schemas.errors import Fault, FaultlineError, InvalidRequest, NotFound, TooLarge, UnsupportedMedia
from schemas.upload import UploadState
from service.bodies import leave_rest, read_bounded
from service.resources import Resources
from service.uploads import run_to_its_end, show_artifact, write_blocks
from storage.resumable import Completed, OffsetConflict, Part, Progress, describe_absent, describe_offset

UPLOADS: Final = "/v1/uploads"
PARTS: Final = ("application/partial-upload", "application/octet-stream")
"""The draft's media type, and the one that programs send which do not know it."""
_SHA256: Final = re.compile(r"(?:^|,)\s*sha-256=:([A-Za-z0-9+/]{43}=):\s*(?=,|$)")


async def begin_upload(held: Resources, owner: str, length_bytes: int, digest: str | None) -> UploadState:
    """Return a new upload, or one that is over at once because the owner has the artifact.

    Raises:
        InvalidRequest: when the digest cannot be read, or is that of an artifact of another length.
        TooLarge: when the length is over the limit.

    """
    sha256 = None if digest is None else read_digest(digest)
    limit = held.settings.max_upload_bytes
    if length_bytes > limit:
        advice = "GET /v1 tells the limits of this server."
        got = f"{length_bytes} bytes"
        raise TooLarge(Fault("the file is too large", "header: Upload-Length", f"at most {limit} bytes", got, advice))
    size = None if sha256 is None else await asyncio.to_thread(held.artifacts.touch, owner, sha256)
    if sha256 is not None and size is not None:
        if size != length_bytes:
            advice = "One of the two headers is wrong."
            what = "the file of this digest has another length"
            raise InvalidRequest(Fault(what, "header: Upload-Length", str(size), str(length_bytes), advice))
        return show_upload(Progress("", length_bytes, sha256, length_bytes, sha256))
    return show_upload(await asyncio.to_thread(held.quota.begin, owner, length_bytes, sha256))


async def find_upload(held: Resources, owner: str, upload_id: str) -> UploadState:
    """Return how far the owner's upload is.

    Raises:
        NotFound: if the owner has none of this id.

    """
    return show_upload(await _find(held, owner, upload_id))


async def continue_upload(held: Resources, owner: str, upload_id: str, offset: int, request: Request) -> UploadState | Completed:
    """Return what has become of an upload with the body of `request` appended; all that arrives is kept, whatever follows.

    Raises:
        FaultlineError: UnsupportedMedia when the body is not said to be a part of a file, NotFound when the upload is gone.
        OffsetConflict: when the upload does not stand at `offset`, or is complete.
        TooLarge: when more comes than was announced.

    """
    try:
        _check_media(request)
        progress = await _find(held, owner, upload_id)
        if progress.sha256 is not None:
            raise OffsetConflict(progress.offset, _describe_end(progress.sha256))
        if progress.offset != offset:
            raise OffsetConflict(progress.offset, describe_offset(progress.offset, offset))
        return await _append(held, owner, request, progress)
    except FaultlineError:
        await leave_rest(request)
        raise


async def give_up(held: Resources, owner: str, upload_id: str) -> None:
    """Remove the owner's upload; an artifact that it became stays.

    Raises:
        NotFound: if the owner has none of this id.

    """
    if not await asyncio.to_thread(held.uploads.abandon, owner, upload_id):
        raise NotFound(describe_absent(upload_id))


def show_upload(progress: Progress) -> UploadState:
    """Return what the API says of an upload."""
    return UploadState(
        id=progress.id or None,
        url=f"{UPLOADS}/{progress.id}" if progress.id else None,
        length_bytes=progress.length_bytes,
        offset_bytes=progress.offset,
        artifact=None if progress.sha256 is None else show_artifact(progress.sha256, progress.length_bytes),
    )


def describe_state(length_bytes: int, offset_bytes: int, artifact: Artifact | None, held: Resources) -> dict[str, str]:
    """Return the headers that tell a client how an upload stands."""
    limits = f"max-size={held.settings.max_upload_bytes}, max-age={round(held.settings.upload_life_s)}"
    return {
        "upload-offset": str(offset_bytes),
        "upload-length": str(length_bytes),
        "upload-complete": "?0" if artifact is None else "?1",
        "upload-limit": limits,
        "cache-control": "no-store",
    }


def read_digest(repr_digest: str) -> str:
    """Return the sha-256 in a Repr-Digest header, in hexadecimal.

    Raises:
        InvalidRequest: when there is none, or no base64 of 32 bytes.

    >>> read_digest("sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:")[:8]
    'e3b0c442'
    """
    found = _SHA256.search(repr_digest)
    try:
        if found is not None:
            return base64.b64decode(found[1], validate=True).hex()
    except binascii.Error:
        pass
    expected, advice = "sha-256=:BASE64:", "Write the 32 bytes of the file's sha-256 in base64 between colons."
    raise InvalidRequest(Fault("the digest cannot be read", "header: Repr-Digest", expected, repr_digest or "nothing", advice))


async def _find(held: Resources, owner: str, upload_id: str) -> Progress:
    progress = await asyncio.to_thread(held.uploads.find, owner, upload_id)
    if progress is None:
        raise NotFound(describe_absent(upload_id))
    return progress


def _check_media(request: Request) -> None:
    got = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if got not in PARTS:
        what, advice = "the body is not said to be a part of a file", f"Send the header Content-Type: {PARTS[0]}."
        raise UnsupportedMedia(Fault(what, "header: Content-Type", " or ".join(PARTS), got or "no Content-Type", advice))


def _describe_end(sha256: str) -> Fault:
    expected, advice = "an upload that has bytes to come", f"It is the artifact {sha256}."
    return Fault("the upload is complete", "path: upload_id", expected, "one that is all there", advice)


async def _append(held: Resources, owner: str, request: Request, progress: Progress) -> UploadState | Completed:
    try:
        with await asyncio.to_thread(held.uploads.open, owner, progress) as part:
            await _receive(part, request, progress)
        if part.offset < progress.length_bytes:
            return show_upload(replace(progress, offset=part.offset))
        return await asyncio.to_thread(held.uploads.complete, owner, progress)
    except NotFound:  # it is gone, or another request was quicker to its end
        found = await _find(held, owner, progress.id)
        raise OffsetConflict(found.offset, _describe_end(found.sha256 or "being made")) from None


async def _receive(part: Part, request: Request, progress: Progress) -> None:
    left = progress.length_bytes - progress.offset
    try:
        await write_blocks(part.write, read_bounded(request, left))
    except TooLarge as error:
        what, advice = "more comes than the upload has left", "Compare the file with the Upload-Length that was announced."
        raise TooLarge(Fault(what, "body", f"at most {left} bytes", error.faults[0].got, advice)) from error
    finally:
        await run_to_its_end(part.sync)
