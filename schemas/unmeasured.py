"""Unmeasured: what a report leaves out because its deadline came first."""

from typing import Any, Literal

from schemas.base import Output


class Unmeasured(Output):
    """Something that was asked for and that the report says nothing about, because the deadline came first."""

    what: Literal["finding", "breaking_point", "bit_flips"]
    scope: str
    kind: str | None
    set: dict[str, Any]
    reason: Literal["deadline"] = "deadline"
