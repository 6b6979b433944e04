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


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 10_000), st.integers(2, 10_000))
def test_whole_numbers_are_bracketed_until_they_are_neighbours_or_close(crossing: int, high: int) -> None:
    tried: list[float] = []

    def probe(n: float) -> Probe:
        tried.append(n)
        return Probe(n >= crossing, n, 1, 0)

    found = find_breaking_point(probe, 1, high, whole=True)
    assert all(isinstance(n, int) for n in tried)
    assert len(tried) == len(set(tried)) == found.evaluations
    if crossing > high:
        assert (found.lo, found.hi) == (high, None)
    elif crossing == 1:
        assert (found.lo, found.hi) == (None, 1)
    else:
        assert found.lo is not None
        assert found.hi is not None
        assert found.lo < crossing <= found.hi
        assert found.hi == found.lo + 1 or found.hi <= found.lo * CLOSE
