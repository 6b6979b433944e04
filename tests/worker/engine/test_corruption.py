"""R1: the closed form is the optimum of <a, g> over S(p, epsilon, n)."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracles import best_linear_value, p_norm, sample_feasible
from worker.engine.corruption import CorruptionSet, compute_closed_form, keep_largest
from worker.engine.regions import Ball

NORMS = [1.0, 1.2, 1.5, 2.0, 3.0, 5.0, math.inf]


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("n", [1, 2, 3, 6, 9])
def test_value_equals_brute_force_over_supports(p: float, n: int) -> None:
    for seed in range(5):
        g = torch.randn(6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        a, value = compute_closed_form(g, CorruptionSet(p, 0.3, n))
        assert value == pytest.approx(best_linear_value(g, p, 0.3, n), rel=1e-12)
        assert float(a @ g) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("n", [1, 3, None])
def test_corruption_is_feasible_with_exact_norm_and_support(p: float, n: int | None) -> None:
    g = torch.randn(50, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    a, _ = compute_closed_form(g, CorruptionSet(p, 0.7, n))
    assert p_norm(a, p) == pytest.approx(0.7, rel=1e-12)
    assert int((a != 0).sum()) == (1 if p == 1 else (n or 50))


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("n", [1, 4, 20])
def test_no_feasible_sample_beats_it(p: float, n: int) -> None:
    g = torch.randn(20, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    _, value = compute_closed_form(g, CorruptionSet(p, 1.0, n))
    best = max(float(a @ g) for a in sample_feasible(20, p, 1.0, n, count=300, seed=11))
    assert best <= value * (1 + 1e-12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1e30, 1e30), min_size=1, max_size=12), st.sampled_from(NORMS), st.integers(1, 14))
def test_extreme_gradients_stay_finite_and_feasible(entries: list[float], p: float, n: int) -> None:
    a, value = compute_closed_form(torch.tensor(entries, dtype=torch.float64), CorruptionSet(p, 0.5, n))
    assert torch.isfinite(a).all()
    assert math.isfinite(value)
    assert value >= 0
    assert p_norm(a, p) <= 0.5 * (1 + 1e-9)
    assert int((a != 0).sum()) <= n


def test_equal_magnitudes_are_kept_in_index_order() -> None:
    assert keep_largest(torch.tensor([2.0, -2.0, 2.0, 1.0, -2.0]), 2).tolist() == [2.0, -2.0, 0.0, 0.0, 0.0]
    assert keep_largest(torch.ones(1000), 3).nonzero().flatten().tolist() == [0, 1, 2]


def test_zero_gradient_gives_zero_and_non_finite_is_refused() -> None:
    a, value = compute_closed_form(torch.zeros(4), CorruptionSet(2.0, 1.0))
    assert (a.tolist(), value) == ([0.0] * 4, 0.0)
    with pytest.raises(ValueError, match="not finite"):
        compute_closed_form(torch.tensor([1.0, float("nan")]), CorruptionSet(2.0, 1.0))


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("n", [1, 10, None])
def test_random_corruption_has_the_norm_and_support_of_the_worst_case(p: float, n: int | None) -> None:
    drawn = Ball(CorruptionSet(p, 0.2, n), 100).draw(seed=5)
    assert p_norm(drawn, p) == pytest.approx(0.2, rel=1e-12)
    assert int((drawn != 0).sum()) == (1 if p == 1 else (n or 100))
    assert torch.equal(drawn, Ball(CorruptionSet(p, 0.2, n), 100).draw(seed=5))
    assert not torch.equal(drawn, Ball(CorruptionSet(p, 0.2, n), 100).draw(seed=6))
