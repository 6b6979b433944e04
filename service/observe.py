"""The layer around everything: gives each request an id and a place in a trace, times it, and counts how it was answered."""

import re
import time
import uuid
from contextvars import ContextVar
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.metrics import RUNNING, note_request
from telemetry.context import noting
from telemetry.spans import Span, span
from telemetry.traceparent import read_traceparent

REQUEST_ID = re.compile(r"[A-Za-z0-9._~-]{8,64}")
"""What a caller may call its request; anything else is replaced: it goes into logs and headers."""


@dataclass
class Seen:
    """What becomes known of a request while it is answered."""

    route: str | None = None
    waited: bool = False
    status: int = 500


_SEEN: ContextVar[Seen | None] = ContextVar("seen", default=None)


def note_route(template: str) -> None:
    """Note the template of the path that is being answered."""
    seen = _SEEN.get()
    if seen is not None:
        seen.route = template


def note_wait() -> None:
    """Note that the answer is held back on the caller's wish: its time says nothing of ours."""
    seen = _SEEN.get()
    if seen is not None:
        seen.waited = True


class Observer:
    """ASGI layer; put it outermost."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        request_id = _read_id(headers.get(b"x-request-id"))
        above = read_traceparent(headers.get(b"traceparent", b"").decode("latin-1"))
        seen, began = Seen(), time.perf_counter()
        token = _SEEN.set(seen)
        RUNNING.inc()
        try:
            with noting(request_id=request_id), span(scope["method"], above=above, kind="server") as one:
                await self._app(scope, receive, _Labelled(send, seen, request_id, one))
                _describe(one, scope["method"], seen)
        finally:
            RUNNING.dec()
            _SEEN.reset(token)
            note_request(scope["method"], seen.route, seen.status, time.perf_counter() - began, waited=seen.waited)


class _Labelled:
    """Sends a response with the request's id and place, and notes its status."""

    def __init__(self, send: Send, seen: Seen, request_id: str, one: Span) -> None:
        self._send = send
        self._seen = seen
        self._labels = [(b"x-request-id", request_id.encode()), (b"traceparent", str(one.place).encode())]

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._seen.status = message["status"]
            message["headers"] = [*message.get("headers", ()), *self._labels]
        await self._send(message)


def _read_id(given: bytes | None) -> str:
    text = (given or b"").decode("latin-1")
    return text if REQUEST_ID.fullmatch(text) else uuid.uuid4().hex


def _describe(one: Span, method: str, seen: Seen) -> None:
    """Name the span as OpenTelemetry's conventions for HTTP servers do."""
    one.name = f"{method} {seen.route}" if seen.route else method
    one.failed = seen.status >= 500
    one.attributes["http.request.method"] = method
    one.attributes["http.response.status_code"] = seen.status
    if seen.route:
        one.attributes["http.route"] = seen.route
