"""R1: the closed form is the optimum of <a, g> over S(p, epsilon, n)."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.oracles import best_linear_value, p_norm, sample_feasible
from worker.engine import corruption
from worker.engine.corruption import CorruptionSet, compute_closed_form, keep_largest
from worker.engine.regions import Ball

NORMS = [1.0, 1.2, 1.5, 2.0, 3.0, 5.0, math.inf]
LONG = 5_003


def solve(gradient: Tensor, chosen: CorruptionSet) -> tuple[Tensor, float]:
    found = compute_closed_form(gradient, chosen)
    return found.corruption[:], found.value


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("n", [1, 2, 3, 6, 9])
def test_value_equals_brute_force_over_supports(p: float, n: int) -> None:
    for seed in range(5):
        g = torch.randn(6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        a, value = solve(g, CorruptionSet(p, 0.3, n))
        assert value == pytest.approx(best_linear_value(g, p, 0.3, n), rel=1e-12)
        assert float(a @ g) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("n", [1, 3, None])
def test_corruption_is_feasible_with_exact_norm_and_support(p: float, n: int | None) -> None:
    g = torch.randn(50, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    a, _ = solve(g, CorruptionSet(p, 0.7, n))
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
    a, value = solve(torch.tensor(entries, dtype=torch.float64), CorruptionSet(p, 0.5, n))
    assert torch.isfinite(a).all()
    assert math.isfinite(value)
    assert value >= 0
    assert p_norm(a, p) <= 0.5 * (1 + 1e-9)
    assert int((a != 0).sum()) <= n


def test_equal_magnitudes_are_kept_in_index_order() -> None:
    assert keep_largest(torch.tensor([2.0, -2.0, 2.0, 1.0, -2.0]), 2).tolist() == [2.0, -2.0, 0.0, 0.0, 0.0]
    assert keep_largest(torch.ones(1000), 3).nonzero().flatten().tolist() == [0, 1, 2]


def test_zero_gradient_gives_zero_and_non_finite_is_refused() -> None:
    a, value = solve(torch.zeros(4), CorruptionSet(2.0, 1.0))
    assert (a.tolist(), value) == ([0.0] * 4, 0.0)
    with pytest.raises(ValueError, match="not finite"):
        compute_closed_form(torch.tensor([1.0, float("nan")]), CorruptionSet(2.0, 1.0))


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("n", [1, 10, None])
def test_random_corruption_has_the_norm_and_support_of_the_worst_case(p: float, n: int | None) -> None:
    drawn = Ball(CorruptionSet(p, 0.2, n), 100).draw(seed=5)[:]
    assert p_norm(drawn, p) == pytest.approx(0.2, rel=1e-12)
    assert int((drawn != 0).sum()) == (1 if p == 1 else (n or 100))
    assert torch.equal(drawn, Ball(CorruptionSet(p, 0.2, n), 100).draw(seed=5)[:])
    assert not torch.equal(drawn, Ball(CorruptionSet(p, 0.2, n), 100).draw(seed=6)[:])


def keep_largest_by_sorting(vector: Tensor, count: int) -> Tensor:
    order = vector.abs().sort(descending=True, stable=True).indices[:count]
    kept = torch.zeros_like(vector)
    kept[order] = vector[order]
    return kept


VECTORS: dict[str, Callable[[torch.Generator], Tensor]] = {
    "normal": lambda generator: torch.randn(LONG, generator=generator),
    "few values": lambda generator: torch.randint(-3, 4, (LONG,), generator=generator).float(),
    "mostly zero": lambda generator: torch.where(torch.rand(LONG, generator=generator) < 0.01, 1.5, 0.0),
    "tiny": lambda generator: 1e-42 * torch.randint(-9, 9, (LONG,), generator=generator),
    "one value": lambda generator: torch.full((LONG,), -2.0),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("kind", VECTORS)
def test_the_largest_of_a_long_vector_are_those_of_a_sort(kind: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corruption, "CHUNK", 1000)
    vector = VECTORS[kind](torch.Generator().manual_seed(0)).to(dtype)
    for count in (1, 7, 700, LONG // 2, LONG - 1):
        assert torch.equal(keep_largest(vector, count), keep_largest_by_sorting(vector, count))


@pytest.mark.parametrize("norm", [1.0, 1.5, 2.0, math.inf])
@pytest.mark.parametrize("count", [None, 50])
def test_long_vectors_have_the_closed_form_of_short_ones(norm: float, count: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    gradient = torch.randn(LONG, generator=torch.Generator().manual_seed(0))
    whole = compute_closed_form(gradient, CorruptionSet(norm, 0.1, count))
    monkeypatch.setattr(corruption, "CHUNK", 1000)
    pieces = compute_closed_form(gradient, CorruptionSet(norm, 0.1, count))
    assert torch.equal(pieces.corruption[:], whole.corruption[:])
    assert pieces.value == pytest.approx(whole.value, rel=1e-13)
