"""Breaking point: the smallest epsilon, or n, at which a limit was found to be crossed; method section 6."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from worker.engine.statistics.interval import Interval

CLOSE = 1.05
"""The bracket is narrow enough when hi / lo is below this."""
MAX_EVALUATIONS = 24
SHARE_SPENT = 0.5
"""Expected share of the passes: about half of the epsilons cross the limit, and then the search there ends at once."""


@dataclass(frozen=True)
class Probe:
    """One epsilon or n tried: whether the limit was crossed, the damage seen, and what it cost; limits where it was sampled."""

    crossed: bool
    observed: float | None
    forward: int
    backward: int
    interval: Interval | None = None


@dataclass(frozen=True)
class BreakingPointResult:
    """hi was measured to cross the limit (a proof); at lo the search did not find a crossing (no proof).

    interval, lo_interval: limits of the damage observed, and of the damage at lo, where they were sampled. cut_off: the search
    had to stop, and the bracket is as far as it came.
    """

    lo: float | None
    hi: float | None
    observed: float | None
    evaluations: int
    forward: int
    backward: int
    interval: Interval | None = None
    lo_interval: Interval | None = None
    cut_off: bool = False


def count_evaluations(low: float, high: float, *, whole: bool = False) -> int:
    """Return how many values a search over [low, high] tries at most: both ends, then halvings of the bracket.

    >>> count_evaluations(1e-4, 100.0), count_evaluations(1.0, 1.04), count_evaluations(1, 1000, whole=True)
    (11, 2, 12)
    """
    halvings = math.ceil(math.log2(math.log(high / low) / math.log(CLOSE)) + 1e-9) if high > CLOSE * low else 0
    # A middle that is rounded to a whole number can leave the larger part.
    return min(2 + halvings + 2 * whole, MAX_EVALUATIONS)


def find_breaking_point(
    probe: Callable[[float], Probe | None], low: float, high: float, *, whole: bool = False
) -> BreakingPointResult:
    """Bisect [low, high] on a logarithmic scale; with `whole` over whole numbers only, until they are neighbours.

    Kind: hi is an upper end proved by measurement; lo proves nothing. Not crossed at `high`: hi is None and
    lo is `high`. Crossed at `low`: lo is None. A probe that had to stop before it found a crossing is None and ends the search.

    Returns:
        The bracket; `observed` is the damage at hi, or at `high` when not crossed.

    >>> found = find_breaking_point(lambda e: Probe(e >= 1.0, e, 1, 0), 1e-4, 100.0)
    >>> found.lo < 1.0 <= found.hi <= 1.05 * found.lo
    True
    >>> found = find_breaking_point(lambda n: Probe(n >= 7, n, 1, 0), 1, 1000, whole=True)
    >>> (found.lo, found.hi)
    (6, 7)
    """
    probes: dict[float, Probe] = {}
    lo: float | None = None
    hi: float | None = None
    value: float | None = high
    cut_off = False
    while value is not None and len(probes) < MAX_EVALUATIONS:
        found = probe(value)
        if found is None:
            cut_off = True
            break
        probes[value] = found
        lo, hi = (lo, value) if found.crossed else (value, hi)
        value = _choose_next(probes, lo, hi, low, whole=whole)
    shown = probes.get(high if hi is None else hi)
    return BreakingPointResult(
        lo=lo,
        hi=hi,
        observed=None if shown is None else shown.observed,
        interval=None if shown is None else shown.interval,
        lo_interval=None if lo is None else probes[lo].interval,
        evaluations=len(probes),
        forward=sum(entry.forward for entry in probes.values()),
        backward=sum(entry.backward for entry in probes.values()),
        cut_off=cut_off,
    )


def _choose_next(probes: Mapping[float, Probe], lo: float | None, hi: float | None, low: float, *, whole: bool) -> float | None:
    """Return what to try after `high`: the other end, then the middle of the bracket; None when nothing is left to try."""
    if hi is None:
        return None
    if lo is None:
        return None if low in probes else low
    if hi / lo <= CLOSE:
        return None
    middle = math.sqrt(lo * hi)
    if whole:
        middle = min(max(round(middle), lo + 1), hi - 1)
    return None if middle in probes else middle
