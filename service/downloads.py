"""Serves stored files in pieces, named by their digest."""

import asyncio
import base64
import os
from collections.abc import AsyncIterator
from typing import BinaryIO

from fastapi import Response
from fastapi.responses import StreamingResponse

from schemas.errors import Fault, NotFound
from service.conditional import format_etag, matches_etag
from storage.artifacts import ArtifactStore

BLOCK_BYTES = 256 * 1024


async def open_artifact(store: ArtifactStore, owner: str, sha256: str) -> BinaryIO:
    """Return the owner's artifact, open.

    Raises:
        NotFound: if the owner has none of that digest.

    """
    # Who asks is about to use it, so it stays for a grace time.
    size = await asyncio.to_thread(store.touch, owner, sha256)
    file = await asyncio.to_thread(store.open, owner, sha256) if size is not None else None
    if file is None:
        advice = f"Upload it with PUT /v1/artifacts/{sha256}."
        raise NotFound(Fault("there is no such artifact", "path: sha256", "the digest of an uploaded artifact", sha256, advice))
    return file


def answer_file(
    file: BinaryIO, sha256: str, media_type: str, if_none_match: str | None, *, headers_only: bool = False
) -> Response:
    """Return the file as a response that closes it, or 304 when the caller holds it."""
    etag = format_etag(sha256)
    headers = {"etag": etag, "cache-control": "private, no-cache"}
    if matches_etag(if_none_match, etag):
        file.close()
        return Response(status_code=304, headers=headers)
    headers["content-length"] = str(os.fstat(file.fileno()).st_size)
    headers["repr-digest"] = f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:"
    if headers_only:
        file.close()
        return Response(headers=headers, media_type=media_type)
    return StreamingResponse(_read_blocks(file), headers=headers, media_type=media_type)


async def _read_blocks(file: BinaryIO) -> AsyncIterator[bytes]:
    with file:
        while block := await asyncio.to_thread(file.read, BLOCK_BYTES):
            yield block
