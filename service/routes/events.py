"""The events of an audit, as a stream."""

from typing import Annotated

from fastapi import Header, Request, Response
from fastapi.responses import StreamingResponse

from schemas.errors import NotFound
from service.events import is_last, stream_events
from service.identity import Owner
from service.openapi.declare import EVENTS, Responses, answers_nothing, refuses
from service.patience import watch_caller
from service.polling import find_job
from service.presentation import AUDITS
from service.resources import Held
from service.routes.audits import AuditId
from service.routes.router import make_router

router = make_router("audits")

LastEventId = Annotated[str | None, Header(alias="Last-Event-ID", description="The id of the last event that the caller has.")]
EXAMPLE = {"id": "3", "event": "job", "data": '{"state": "running", ...}'}
_TEXT = {"type": "string"}
EVENT = {"type": "object", "properties": {"id": _TEXT, "event": {"const": "job"}, "data": _TEXT}}
"""One event, as tools read the schema of a stream; `data` is the job as JSON."""
CONTENT = {EVENTS: {"schema": EVENT, "example": EXAMPLE}}
STREAM: Responses = {200: {"description": "The job, now and after every change.", "content": CONTENT}}


@router.get(
    AUDITS + "/{audit_id}/events",
    responses=STREAM | answers_nothing(204, "The caller has seen the end.") | refuses(NotFound),
)
async def get_events(
    audit_id: AuditId, request: Request, owner: Owner, held: Held, last_event_id: LastEventId = None
) -> Response:
    """Stream an audit's changes as server-sent events until it has ended; each id is the job's revision."""
    record = await find_job(held.queue, audit_id, owner)
    if is_last(record, last_event_id):
        return Response(status_code=204)
    events = stream_events(held.queue, record, last_event_id, watch_caller(request, held.draining))
    return StreamingResponse(events, headers={"cache-control": "no-store", "x-accel-buffering": "no"}, media_type=EVENTS)
