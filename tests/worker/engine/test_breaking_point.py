"""Breaking points: the bracket holds the crossing, and says so when there is none."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.engine.breaking_point import CLOSE, BreakingPointResult, Probe, find_breaking_point


def bisect_at(crossing: float, low: float = 1e-4, high: float = 100.0) -> BreakingPointResult:
    return find_breaking_point(lambda epsilon: Probe(epsilon >= crossing, epsilon, 1, 2), low, high)


@settings(max_examples=100, deadline=None)
@given(st.floats(1.1e-4, 99.0))
def test_the_bracket_holds_the_crossing_and_is_narrow(crossing: float) -> None:
    found = bisect_at(crossing)
    assert found.lo is not None
    assert found.hi is not None
    assert found.lo < crossing <= found.hi <= found.lo * CLOSE
    assert (found.observed, found.backward) == (found.hi, 2 * found.forward)


@pytest.mark.parametrize(("crossing", "lo", "hi", "observed"), [(1000.0, 100.0, None, 100.0), (1e-9, None, 1e-4, 1e-4)])
def test_a_limit_never_or_always_crossed(crossing: float, lo: float | None, hi: float | None, observed: float) -> None:
    found = bisect_at(crossing)
    assert (found.lo, found.hi, found.observed) == (lo, hi, observed)
    assert found.evaluations <= 2
