"""W3C Trace Context: which trace something belongs to, and below which span. Standard library only."""

import re
import secrets
from dataclasses import dataclass
from typing import Self

_HEADER = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
SAMPLED = 0x01


@dataclass(frozen=True)
class TraceParent:
    """A place in a trace: ids in lower-case hexadecimal; `sampled` asks everybody below to keep their spans."""

    trace_id: str
    span_id: str
    sampled: bool

    def __str__(self) -> str:
        """Return the header's value."""
        return f"00-{self.trace_id}-{self.span_id}-{SAMPLED if self.sampled else 0:02x}"

    @classmethod
    def begin(cls, *, sampled: bool = True) -> Self:
        """Return the place of a span that has no other above it."""
        return cls(_make_id(16), _make_id(8), sampled)

    def descend(self) -> Self:
        """Return the place of a span below this one."""
        return type(self)(self.trace_id, _make_id(8), self.sampled)


def read_traceparent(value: str | None) -> TraceParent | None:
    """Return what the header says; None where it is missing or malformed, which the standard treats alike.

    >>> read_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").trace_id
    '4bf92f3577b34da6a3ce929d0e0e4736'
    >>> read_traceparent("00-" + "0" * 32 + "-00f067aa0ba902b7-01"), read_traceparent("ff-4bf9") is None
    (None, True)
    """
    found = _HEADER.fullmatch(value or "")
    if found is None:
        return None
    version, trace_id, span_id, flags, rest = found.groups()
    # Version ff is forbidden, version 00 has nothing after its flags, and ids of zeros are none.
    if version == "ff" or (version == "00" and rest) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    return TraceParent(trace_id, span_id, bool(int(flags, 16) & SAMPLED))


def _make_id(size_bytes: int) -> str:
    """Return random hexadecimal digits that are not all zero."""
    while True:
        made = secrets.token_hex(size_bytes)
        if int(made, 16):
            return made
