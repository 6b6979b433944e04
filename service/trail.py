"""Writes the audit log: each call that changes something is noted when its answer is known, before the caller has it."""

import json
import logging
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from schemas.errors import Unavailable
from schemas.problem import clean_text
from service.access import SAFE_METHODS, find_access
from service.identity import Caller
from telemetry.context import find_notes

logger = logging.getLogger("faultline.trail")

MAX_TARGET = 300
MAX_CLIENT = 64
WHERE_IT_IS = (b"location", b"content-location")
"""Headers that name what a call has made."""


class Recorder:
    """ASGI layer inside the one that answers what nobody foresaw."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["method"] in SAFE_METHODS:
            await self._app(scope, receive, send)
            return
        scope.setdefault("state", {})
        noted = False

        async def note_and_send(message: Message) -> None:
            nonlocal noted
            if message["type"] == "http.response.start":
                noted = True
                await note(scope, message["status"], dict(message.get("headers", ())))
            await send(message)

        try:
            await self._app(scope, receive, note_and_send)
        except Exception:
            if not noted:
                await note(scope, 500, {})
            raise


async def note(scope: Scope, status: int, headers: dict[bytes, bytes]) -> None:
    """Write the entry of a call; none for one that changes nothing or that was turned away before its caller was known."""
    caller: Caller | None = scope["state"].get("caller")
    route = getattr(scope.get("route"), "path", "")
    if caller is None or not find_access(scope["method"], route).changes:
        return
    entry = build_entry(scope, caller, f"{scope['method']} {route}", status, headers)
    logger.info("%s", json.dumps({"tenant": caller.owner, **entry}, sort_keys=True))
    try:
        await scope["app"].state.resources.trail.append(caller.owner, entry)
    except Unavailable:
        # The change is made; to take the answer back would help nobody. The line above is what is left of it.
        logger.exception("the audit log could not be written: request %s", entry["request_id"])


def build_entry(scope: Scope, caller: Caller, action: str, status: int, headers: dict[bytes, bytes]) -> dict[str, str]:
    """Return an entry's fields: names and numbers only, nothing of a body, no query, no secret."""
    made = next((headers[name].decode("latin-1") for name in WHERE_IT_IS if name in headers), None)
    client: Any = scope.get("client")
    return {
        "key_id": caller.key_id or "",
        "action": action,
        "target": clean_text(made or scope["path"], MAX_TARGET),
        "status": str(status),
        "request_id": str(find_notes()["request_id"]),
        "client": clean_text(client[0], MAX_CLIENT) if client else "",
    }
