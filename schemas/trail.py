"""The audit log of the service: who changed what, and how it ended. Never what was in it."""

from schemas.base import Output, UtcTime


class TrailEntry(Output):
    """One call that changed something, or tried to.

    key_id is None where no key is asked for. action: method and route. target: the path of what was changed or made, without its
    query. status: how the call was answered. client: the address that the call came from.
    """

    id: str
    at: UtcTime
    tenant: str
    key_id: str | None
    action: str
    target: str
    status: int
    request_id: str
    client: str


class TrailPage(Output):
    """One page of the audit log, newest first; `next` is the cursor of the following page."""

    items: tuple[TrailEntry, ...]
    next: str | None
