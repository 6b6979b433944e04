"""Deadline: until when a job's search may go on, on the clock of the process that holds it; and what the search asks."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class Deadline:
    """at: by time.monotonic(); None: there is no deadline."""

    at: float | None

    @classmethod
    def after(cls, left_s: float | None) -> Self:
        """Return the deadline that is so many seconds from now."""
        return cls(None if left_s is None else time.monotonic() + left_s)

    def is_past(self, grace_s: float = 0.0) -> bool:
        """Tell whether it is past, and a grace after it too."""
        return self.at is not None and time.monotonic() >= self.at + grace_s

    @property
    def left_s(self) -> float | None:
        """Seconds from now, not below zero."""
        return None if self.at is None else max(0.0, self.at - time.monotonic())


class StopSign:
    """Asks whether to stop and remembers the answer: once yes, always yes. Whoever is told so leaves something out.

    >>> answers = iter([False, True, False])
    >>> sign = StopSign(lambda: next(answers))
    >>> sign(), sign(), sign(), sign.has_stopped
    (False, True, True, True)
    """

    def __init__(self, ask: Callable[[], bool] = lambda: False) -> None:
        self.has_stopped = False
        self._ask = ask

    def __call__(self) -> bool:
        """Return whether to stop."""
        self.has_stopped = self.has_stopped or self._ask()
        return self.has_stopped
