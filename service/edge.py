"""The outermost layer: OPTIONS, HEAD, security headers, and an answer when everything else failed."""

from collections.abc import Iterable, MutableMapping
from typing import Any

from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.problems import answer_unforeseen

SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
)


class MethodTable:
    """Which methods a path takes, over all routes; the framework's own Allow knows only the first that matches."""

    def __init__(self, routes: Iterable[APIRoute]) -> None:
        self._rows = [(route.path_regex, route.methods or set()) for route in routes]

    def find(self, path: str) -> tuple[str, ...]:
        """Return the methods of `path` in alphabetical order; none when there is no such path."""
        methods = {method for pattern, taken in self._rows if pattern.match(path) for method in taken}
        if "GET" in methods:
            methods.add("HEAD")
        return tuple(sorted(methods | {"OPTIONS"})) if methods else ()

    def has(self, path: str, method: str) -> bool:
        """Tell whether a route was written for `method` on `path`."""
        return any(method in taken and pattern.match(path) for pattern, taken in self._rows)


class Edge:
    """ASGI layer around the whole app."""

    def __init__(self, app: ASGIApp, methods: MethodTable) -> None:
        self._app = app
        self._methods = methods

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        reply = _Reply(send, without_body=scope["method"] == "HEAD")
        try:
            await self._dispatch(scope, receive, reply)
        except Exception as error:
            if reply.started:
                raise
            await answer_unforeseen(error)(scope, receive, reply)

    async def _dispatch(self, scope: Scope, receive: Receive, reply: "_Reply") -> None:
        path, method = scope["path"], scope["method"]
        if method == "OPTIONS" and (allowed := self._methods.find(path)):
            headers = [(b"allow", ", ".join(allowed).encode())]
            await reply({"type": "http.response.start", "status": 204, "headers": headers})
            await reply({"type": "http.response.body", "body": b""})
            return
        if method == "HEAD" and not self._methods.has(path, "HEAD"):
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, reply)


class _Reply:
    """Sends a response with the security headers and, for HEAD, without its body."""

    def __init__(self, send: Send, *, without_body: bool) -> None:
        self._send = send
        self._without_body = without_body
        self._ended = False
        self.started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            _add_headers(message)
        elif self._without_body:
            if self._ended:
                return
            self._ended = True
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)


def _add_headers(message: MutableMapping[str, Any]) -> None:
    given = message.get("headers", ())
    names = {name for name, _ in given}
    message["headers"] = [*given, *(header for header in SECURITY_HEADERS if header[0] not in names)]
