"""The short way of the most frequent call: a GET of one audit without a wait. What it answers is what the route answers.

A job's document depends on its record alone, and every change of the record raises its revision. So a document that was written
before is right as long as the store still has that revision, which is asked for every time, together with the owner.
"""

import re
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from fastapi import Request
from fastapi.routing import APIRoute
from redis.exceptions import RedisError
from starlette.types import ASGIApp, Receive, Scope, Send

from schemas.errors import FaultlineError
from service.answers import answer_job
from service.conditional import format_etag, matches_etag
from service.identity import authorise
from service.judgement import settle_verdict
from service.observe import note_route
from service.polling import find_job
from service.presentation import AUDITS, build_job
from service.problems import answer_broker, answer_error
from service.resources import Resources
from storage.records import JOB_ID

TEMPLATE = AUDITS + "/{audit_id}"
CACHE_BYTES = 16 * 1024 * 1024
_PATH = re.compile(f"{AUDITS}/({JOB_ID.pattern})")


class Written(NamedTuple):
    """An answer as it was sent, and the revision that it shows."""

    owner: str
    revision: int
    body: bytes
    headers: list[tuple[bytes, bytes]]


class WrittenJobs:
    """Answers by job, those used last, up to a number of bytes."""

    def __init__(self, limit_bytes: int = CACHE_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._size_bytes = 0
        self._entries: OrderedDict[str, Written] = OrderedDict()

    def find(self, id: str) -> Written | None:
        """Return what was written of a job, at whatever revision."""
        found = self._entries.get(id)
        if found is not None:
            self._entries.move_to_end(id)
        return found

    def keep(self, id: str, written: Written) -> None:
        """Keep it in place of an earlier one."""
        known = self._entries.pop(id, None)
        self._size_bytes -= 0 if known is None else len(known.body)
        self._entries[id] = written
        self._size_bytes += len(written.body)
        while self._size_bytes > self._limit_bytes:
            _, oldest = self._entries.popitem(last=False)
            self._size_bytes -= len(oldest.body)


class PollPath:
    """ASGI layer around the routes; put it innermost."""

    def __init__(self, app: ASGIApp, routes: Sequence[APIRoute]) -> None:
        self._app = app
        self._route = next(route for route in routes if route.path == TEMPLATE and "GET" in (route.methods or ()))
        self._written = WrittenJobs()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or have the routes answer it."""
        found = _PATH.fullmatch(scope["path"]) if scope["type"] == "http" and scope["method"] == "GET" else None
        names = [name for name, _ in scope["headers"]] if found is not None else []
        if found is None or b"prefer" in names or names.count(b"if-none-match") > 1:
            await self._app(scope, receive, send)
            return
        note_route(TEMPLATE)
        request = Request({**scope, "route": self._route, "path_params": {"audit_id": found[1]}}, receive)
        try:
            response: ASGIApp = await self._answer(found[1], request, scope["app"].state.resources)
        except FaultlineError as error:
            response = answer_error(error)
        except RedisError as error:
            response = answer_broker(error)
        await response(scope, receive, send)

    async def _answer(self, audit_id: str, request: Request, held: Resources) -> ASGIApp:
        caller = await authorise(request, held)
        if_none_match = request.headers.get("if-none-match")
        written = self._written.find(audit_id)
        if written is not None and written.owner == caller.owner:
            glance = await held.queue.glance(audit_id)
            if glance == (written.owner, written.revision) and not matches_etag(if_none_match, format_etag(written.revision)):
                return Kept(written)
        record = await find_job(held.queue, audit_id, caller.owner)
        record = await settle_verdict(held.queue, held.artifacts, record)
        response = answer_job(build_job(record), if_none_match, None)
        if response.status_code == 200:
            self._written.keep(audit_id, Written(caller.owner, record.revision, bytes(response.body), response.raw_headers))
        return response


class Kept:
    """Sends what was written before."""

    def __init__(self, written: Written) -> None:
        self._written = written

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Send it."""
        await send({"type": "http.response.start", "status": 200, "headers": self._written.headers})
        await send({"type": "http.response.body", "body": self._written.body})
