"""R2: eta of real random trials follows the beta law; R4: the mean random loss change is epsilon^2 tr(H) / 2k."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from tests.oracles import hessian_trace
from worker.engine.corruption import CorruptionSet
from worker.engine.regions import Ball
from worker.engine.theory import (
    compute_best_of,
    compute_eta_cdf,
    compute_expected_eta,
    compute_log10_trials,
    compute_log_tail,
    compute_random_theory,
)


@pytest.mark.parametrize("k", [3, 50, 2000])
def test_eta_of_drawn_corruptions_follows_the_beta_law(k: int) -> None:
    g = torch.randn(k, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    chosen = CorruptionSet(2.0, 0.25)
    drawn = [Ball(chosen, k).draw(seed)[:] for seed in range(1000, 2500)]
    # Rounding can put a cosine just above 1.
    etas = np.array([min(1.0, abs(float(a @ g)) / (0.25 * float(g.norm()))) for a in drawn])
    assert stats.kstest(compute_eta_cdf(etas, k), stats.uniform.cdf).pvalue > 0.01
    assert float(etas.mean()) == pytest.approx(compute_expected_eta(k), rel=0.06)


@pytest.mark.parametrize(
    ("k", "mean", "ten", "thousand"),
    [
        (10_000, 8.0e-3, 1.8e-2, 3.4e-2),
        (101_770, 2.5e-3, 5.7e-3, 1.1e-2),
        (1_000_000, 8.0e-4, 1.8e-3, 3.4e-3),
        (21_800_000, 1.7e-4, 3.9e-4, 7.3e-4),
    ],
)
def test_figures_agree_with_the_published_table(k: int, mean: float, ten: float, thousand: float) -> None:
    theory = compute_random_theory(k, 1.0)
    assert theory.expected_eta == pytest.approx(mean, rel=0.04)
    assert theory.best_of[10] == pytest.approx(ten, rel=0.04)
    assert theory.best_of[1000] == pytest.approx(thousand, rel=0.04)
    assert theory.expected_eta_squared == 1 / k


def test_best_of_agrees_with_simulation() -> None:
    rows = np.random.default_rng(1).standard_normal((2000, 10, 40))
    etas = np.abs(rows[..., 0]) / np.linalg.norm(rows, axis=-1)
    assert float(np.median(etas.max(axis=1))) == pytest.approx(compute_best_of(40, 10), rel=0.03)


def test_tail_is_continuous_where_the_library_underflows() -> None:
    exact = [compute_log_tail(k, 0.5) for k in (4200, 4400)]
    leading = compute_log_tail(6000, 0.5)
    slope = (exact[1] - exact[0]) / 200
    assert leading == pytest.approx(exact[1] + slope * 1600, rel=1e-3)


def test_trials_needed_in_two_dimensions_by_hand() -> None:
    # k = 2: eta = |cos(angle)|; P(cos > 1/2) = 1/3, so ln(0.05) / ln(2/3) trials.
    assert compute_log10_trials(2, 0.5, 0.95) == pytest.approx(math.log10(math.log(0.05) / math.log(2 / 3)), rel=1e-9)


def test_mean_random_loss_change_is_half_the_hessian_trace_per_weight() -> None:
    generator = torch.Generator().manual_seed(2)
    inputs, targets = (
        torch.randn(30, 6, generator=generator, dtype=torch.float64),
        torch.randn(30, generator=generator, dtype=torch.float64),
    )
    w = torch.randn(24, generator=generator, dtype=torch.float64)

    def loss(vector: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(inputs @ vector[:18].view(6, 3))
        return ((hidden @ vector[18:21] + vector[21:].sum() - targets) ** 2).mean()

    epsilon = 0.02
    drawn = [Ball(CorruptionSet(2.0, epsilon), 24).draw(seed)[:] for seed in range(2000)]
    # Antithetic pairs cancel the first order, which would drown the second in Monte-Carlo noise.
    changes = np.array([float((loss(w + a) + loss(w - a)) / 2 - loss(w)) for a in drawn])
    expected = epsilon**2 * hessian_trace(loss, w) / (2 * 24)
    error = changes.std() / math.sqrt(len(changes))
    assert abs(changes.mean() - expected) <= 4 * error + 0.01 * abs(expected)
