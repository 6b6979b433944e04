"""Reads request bodies: bounded, undecoded, never more in memory than asked for."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from fastapi import Request

from schemas.errors import Fault, TooLarge, UnsupportedMedia
from service.strict_json import parse_json

LINGER_BYTES = 8 * 1024 * 1024


class Document(NamedTuple):
    """A JSON body as it came and as it was parsed."""

    body: bytes
    content: Any


async def read_document(request: Request, limit: int) -> Document:
    """Return the JSON body of `request`.

    Raises:
        UnsupportedMedia: if it is said to be something else.

    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        advice = "Send the header Content-Type: application/json."
        got = media_type or "no Content-Type"
        raise UnsupportedMedia(Fault("the body is not said to be JSON", "header: Content-Type", "application/json", got, advice))
    body = b"".join([chunk async for chunk in read_bounded(request, limit)])
    return Document(body, await asyncio.to_thread(parse_json, body))


async def read_bounded(request: Request, limit: int) -> AsyncIterator[bytes]:
    """Yield the body of `request` as it arrives.

    Raises:
        UnsupportedMedia: if it is compressed.
        TooLarge: as soon as it is known to exceed `limit` bytes.

    """
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        advice = "Send the bytes as they are."
        raise UnsupportedMedia(Fault("the body is encoded", "header: Content-Encoding", "identity", encoding, advice))
    chunks = request.stream()
    announced = int(request.headers.get("content-length", "0"))
    if announced > limit:
        if "expect" not in request.headers:  # a client that waits for "100 Continue" has sent nothing yet
            await _linger(chunks)
        raise TooLarge(_explain_size(limit, f"{announced} bytes"))
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > limit:
            await _linger(chunks)
            raise TooLarge(_explain_size(limit, f"more than {limit} bytes"))
        yield chunk


async def leave_rest(request: Request) -> None:
    """Take a little more of the body of a request that is refused, as far as it was not read."""
    if "expect" not in request.headers:
        with contextlib.suppress(RuntimeError):  # there is nothing more to read
            await _linger(request.stream())


async def _linger(chunks: AsyncIterator[bytes]) -> None:
    """Take a little more of a body that is refused: a client that is still sending would lose the answer with the connection."""
    left = LINGER_BYTES
    async for chunk in chunks:
        left -= len(chunk)
        if left < 0:
            return


def _explain_size(limit: int, got: str) -> Fault:
    return Fault("the body is too large", "", f"at most {limit} bytes", got, "GET /v1 tells the limits of this server.")
