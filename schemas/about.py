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
    """The service's version, limits and where its parts are."""

    name: Literal["faultline"]
    version: str
    limits: Limits
    links: dict[str, str]


class Health(Output):
    """The process answers."""

    status: Literal["alive"]


class Readiness(Output):
    """Broker and store answer and at least one worker takes audits.

    audits: how many there are in each state. sandbox: which layers confine every audit, whichever worker gets it.
    """

    status: Literal["ready"]
    workers: int
    audits: dict[str, int]
    sandbox: dict[str, bool]
