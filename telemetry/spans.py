"""Spans: timed pieces of a trace that goes through several processes.

Ids are made and carried here, so that a trace has its one id also where nothing is exported; telemetry/exporter.py sends spans.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal, Protocol

from telemetry.context import noting
from telemetry.traceparent import TraceParent

SpanKind = Literal["internal", "server", "producer", "consumer"]
Value = str | int | float | bool


@dataclass
class Span:
    """One timed piece; times are nanoseconds since 1970. `parent` is the span id above it."""

    name: str
    place: TraceParent
    parent: str | None
    kind: SpanKind
    began_ns: int
    ended_ns: int = 0
    failed: bool = False
    attributes: dict[str, Value] = field(default_factory=dict)


class Sink(Protocol):
    """Takes spans that have ended."""

    def take(self, span: Span) -> None:
        """Keep or send the span; must not block."""


_SINKS: list[Sink] = []
_CURRENT: ContextVar[Span | None] = ContextVar("span", default=None)


def add_sink(sink: Sink) -> None:
    """Send spans there as well."""
    _SINKS.append(sink)


def remove_sink(sink: Sink) -> None:
    """Send no more spans there."""
    _SINKS.remove(sink)


def find_place() -> TraceParent | None:
    """Return where in a trace this code runs; None outside of all."""
    span = _CURRENT.get()
    return None if span is None else span.place


@contextmanager
def span(
    name: str, *, above: TraceParent | None = None, kind: SpanKind = "internal", attributes: Mapping[str, Value] | None = None
) -> Iterator[Span]:
    """Time the block as a span below `above`, else below the span around it, else as the first of a new trace.

    Yields:
        The span; attributes may be added to it.
    """
    above = above or find_place()
    place = TraceParent.begin() if above is None else above.descend()
    one = Span(name, place, None if above is None else above.span_id, kind, time.time_ns(), attributes=dict(attributes or {}))
    token = _CURRENT.set(one)
    try:
        with noting(trace_id=place.trace_id):
            yield one
    except BaseException as error:
        one.failed = True
        one.attributes["error.type"] = type(error).__name__
        raise
    finally:
        _CURRENT.reset(token)
        one.ended_ns = time.time_ns()
        _send(one)


def note_span(name: str, began_ns: int, ended_ns: int, attributes: Mapping[str, Value] | None = None) -> None:
    """Add a piece that was timed elsewhere, below the span around this code."""
    around = _CURRENT.get()
    if around is not None:
        _send(
            Span(
                name,
                around.place.descend(),
                around.place.span_id,
                "internal",
                began_ns,
                ended_ns,
                attributes=dict(attributes or {}),
            )
        )


def _send(one: Span) -> None:
    if one.place.sampled:
        for sink in _SINKS:
            sink.take(one)
