"""How long each phase of a job took, by the clock of the process that ran it."""

import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

ENGINE = "engine"
"""The whole of a job, from the reading of its model to its result."""

ReportProgress = Callable[[str, int, int], None]
"""Called with (phase, done, total)."""


class Phase(NamedTuple):
    """When a phase began, in seconds since the job did, and how long it took in all."""

    name: str
    began_s: float
    seconds: float


class PhaseClock:
    """Times phases as the progress names them: one ends where the next begins. A phase that comes again goes on."""

    def __init__(self, read_clock: Callable[[], float] = time.monotonic) -> None:
        self._read_clock = read_clock
        self._began = self._since = read_clock()
        self._current: str | None = None
        self._phases: dict[str, Phase] = {}

    def watch(self, report_progress: ReportProgress) -> ReportProgress:
        """Return the same function; what it is told is timed."""

        def report(phase: str, done: int, total: int) -> None:
            self._enter(phase)
            report_progress(phase, done, total)

        return report

    def end(self) -> tuple[Phase, ...]:
        """Return all phases in order of their beginning, the whole first."""
        self._enter(None)
        return (Phase(ENGINE, 0.0, self._read_clock() - self._began), *self._phases.values())

    def _enter(self, phase: str | None) -> None:
        if phase == self._current:
            return
        now = self._read_clock()
        if self._current is not None:
            known = self._phases.get(self._current, Phase(self._current, self._since - self._began, 0.0))
            self._phases[self._current] = known._replace(seconds=known.seconds + now - self._since)
        self._current, self._since = phase, now


def find_seconds(phases: Iterable[Phase], name: str) -> float:
    """Return the seconds of a phase, 0 where there was none.

    >>> find_seconds([Phase("search", 0.5, 2.0)], "search")
    2.0
    """
    return next((phase.seconds for phase in phases if phase.name == name), 0.0)
