"""What the service says of itself: version and limits, life and readiness."""

from typing import Literal

from schemas.base import Output


class Limits(Output):
    """The largest bodies that are taken and the longest wait for a change."""

    upload_bytes: int
    request_bytes: int
    verdict_bytes: int
    wait_s: int


class About(Output):
    """The service's version, limits and where its parts are; `commit` is what it was built from, where it was built with it."""

    name: Literal["faultline"]
    version: str
    commit: str | None
    limits: Limits
    links: dict[str, str]


class Health(Output):
    """The process answers."""

    status: Literal["alive"]


class Readiness(Output):
    """Broker and store answer and at least one worker takes audits.

    announced_s: how long ago each worker said last that it takes audits. audits: how many there are in each state.
    oldest_queued_s: how long the oldest of those that are queued waits, 0 without one.
    sandbox: which layers confine every audit, whichever worker gets it.
    """

    status: Literal["ready"]
    workers: int
    announced_s: tuple[float, ...]
    audits: dict[str, int]
    oldest_queued_s: float
    sandbox: dict[str, bool]
