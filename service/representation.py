"""How a document travels: with an entity tag where it has none, not at all when the caller holds it, compressed when it is long.

Files and reports are left alone: their strong tags and digests are of the bytes as they are. A compressed answer is another
representation, so a strong tag becomes a weak one there; If-None-Match compares weakly, so that either is recognised.
"""

import asyncio
import gzip
import hashlib
from functools import partial

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.conditional import format_etag, matches_etag, takes_gzip

SHORTEST_BYTES = 1024
"""Below that, compression saves no packet."""
LEVEL = 5
LONG_BYTES = 256 * 1024
"""From there on another thread compresses."""
MEDIA_TYPES = ("application/json", "application/problem+json", "text/html", "text/css", "text/javascript")
UNCACHED = frozenset({"/healthz", "/readyz", "/metrics"})


class Representation:
    """ASGI layer around everything that answers with documents."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        await self._app(scope, receive, _Reply(scope, send))


class _Reply:
    """Holds the beginning of a response back until its body is there; one that comes in pieces is passed on as it is."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._asked = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        self._tagged = scope["method"] == "GET" and scope["path"] not in UNCACHED
        self._send = send
        self._start: Message | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            return
        start, self._start = self._start, None
        if start is not None:
            if not message.get("more_body", False):
                message = await self._represent(start, message)
            await self._send(start)
        await self._send(message)

    async def _represent(self, start: Message, message: Message) -> Message:
        headers = MutableHeaders(raw=list(start["headers"]))  # the list may be kept for the next answer
        media_type = headers.get("content-type", "").partition(";")[0]
        if media_type not in MEDIA_TYPES or "repr-digest" in headers:
            return message
        start["headers"] = headers.raw
        body = message.get("body", b"")
        if self._tagged and start["status"] == 200:
            if "etag" not in headers:
                headers["etag"] = format_etag(hashlib.sha256(body).hexdigest()[:32])
                headers.setdefault("cache-control", "private, no-cache")
            if matches_etag(self._asked.get("if-none-match"), headers["etag"]):
                return _drop(start, headers)
        headers.add_vary_header("Accept-Encoding")
        if len(body) < SHORTEST_BYTES or not takes_gzip(self._asked.get("accept-encoding")):
            return message
        return {**message, "body": await _compress(headers, body)}


def _drop(start: Message, headers: MutableHeaders) -> Message:
    """Make it the answer of a caller who holds the document."""
    start["status"] = 304
    for name in ("content-type", "content-length"):
        del headers[name]
    return {"type": "http.response.body", "body": b""}


async def _compress(headers: MutableHeaders, body: bytes) -> bytes:
    compress = partial(gzip.compress, body, LEVEL, mtime=0)
    short = await asyncio.to_thread(compress) if len(body) >= LONG_BYTES else compress()
    headers["content-encoding"] = "gzip"
    headers["content-length"] = str(len(short))
    if headers.get("etag", "").startswith('"'):
        headers["etag"] = f"W/{headers['etag']}"
    return short
