"""What a log line or span is about: noted once where it becomes known, carried along by the thread or task."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

_NOTES: ContextVar[Mapping[str, str | int]] = ContextVar("notes", default=MappingProxyType({}))


def find_notes() -> Mapping[str, str | int]:
    """Return what is noted here: request_id, trace_id, job_id, attempt, as far as they are known."""
    return _NOTES.get()


@contextmanager
def noting(**notes: str | int | None) -> Iterator[None]:
    """Note these until the block ends; None notes nothing."""
    token = _NOTES.set({**_NOTES.get(), **{name: value for name, value in notes.items() if value is not None}})
    try:
        yield
    finally:
        _NOTES.reset(token)
