import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from worker.engine.statistics.asymptotic import AsymptoticSequence, compute_mean_limits

SYMMETRIC = np.concatenate([np.linspace(1.0, 2.0, 60), np.linspace(2.0, 3.0, 60)])


def test_limits_of_symmetric_values_are_those_of_student() -> None:
    found = compute_mean_limits(SYMMETRIC)
    tests = [stats.ttest_1samp(SYMMETRIC, 0.0, alternative=side) for side in ("greater", "less")]
    known = tests[0].confidence_interval(0.95).low, tests[1].confidence_interval(0.95).high
    assert (found.lower, found.upper) == pytest.approx(known, rel=1e-9)
    assert found.is_asymptotic


def test_a_finite_population_narrows_them_by_the_share_not_seen() -> None:
    infinite, finite = compute_mean_limits(SYMMETRIC), compute_mean_limits(SYMMETRIC, population=240)
    assert finite.upper - 2.0 == pytest.approx((infinite.upper - 2.0) * math.sqrt(0.5), rel=1e-9)


def test_the_longer_tail_moves_its_own_limit_outwards_and_the_other_not_at_all() -> None:
    values = np.random.default_rng(0).exponential(size=400)
    found, mirrored = compute_mean_limits(values), compute_mean_limits(-values)
    margin = stats.t.ppf(0.95, 399) * stats.sem(values)
    assert found.lower == pytest.approx(values.mean() - margin, rel=1e-9)
    shift = stats.skew(values) * stats.sem(values) * (2 * stats.t.ppf(0.95, 399) ** 2 + 1) / (6 * math.sqrt(400))
    assert found.upper == pytest.approx(values.mean() + margin + shift, rel=1e-3)
    assert (mirrored.lower, mirrored.upper) == pytest.approx((-found.upper, -found.lower), rel=1e-9)


def test_what_the_normal_limit_cannot_carry_is_infinite() -> None:
    outlier = np.append(np.linspace(0.0, 1.0, 199), 1000.0)
    skewed = compute_mean_limits(outlier)
    assert math.isfinite(skewed.lower)
    assert skewed.upper == math.inf
    for values in (SYMMETRIC[:40], np.ones(200), np.empty(0)):
        found = compute_mean_limits(values)
        assert (found.lower, found.upper) == (-math.inf, math.inf)
        sequence = AsymptoticSequence(1000)
        sequence.update(values)
        assert sequence.limits() == (-math.inf, math.inf)


@pytest.mark.parametrize("population", [500, None])
def test_fixed_samples_of_skewed_losses_are_covered(population: int | None) -> None:
    generator, runs, held = np.random.default_rng(1), 2000, np.zeros(2)
    for _ in range(runs):
        if population is None:
            sample, truth = generator.exponential(size=200), 1.0
        else:
            values = generator.exponential(size=population)
            sample, truth = values[:200], values.mean()
        found = compute_mean_limits(sample, population)
        held += found.lower <= truth, found.upper >= truth
    assert held.min() >= stats.binom.ppf(0.001, runs, 0.95)


@pytest.mark.parametrize("population", [1000, None])
@pytest.mark.parametrize("law", [stats.norm(), stats.expon()])
def test_whoever_stops_as_soon_as_a_limit_looks_wrong_rarely_finds_one(law: Any, population: int | None) -> None:
    generator, runs, missed = np.random.default_rng(2), 400, np.zeros(2)
    for _ in range(runs):
        values = law.rvs(1000, random_state=generator)
        truth = law.mean() if population is None else values.mean()
        sequence, wrong = AsymptoticSequence(population), np.zeros(2, dtype=bool)
        for part in np.split(values, [100, 130, 170, 230, 300, 400, 550, 700, 850, 950])[:-1]:
            sequence.update(part)
            lower, upper = sequence.limits()
            wrong |= lower > truth, upper < truth
        missed += wrong
    assert missed.max() <= stats.binom.ppf(0.999, runs, 0.05)


def test_the_sequence_narrows_and_is_exact_at_the_end() -> None:
    values = np.random.default_rng(3).exponential(size=2000)
    sequence, before = AsymptoticSequence(2000), (-math.inf, math.inf)
    for part in np.split(values, 20):
        sequence.update(part)
        lower, upper = sequence.limits()
        assert before[0] <= lower <= values.mean() + 1e-12
        assert before[1] >= upper >= values.mean() - 1e-12
        before = lower, upper
    assert before == (math.fsum(values) / 2000,) * 2
    assert (sequence.interval().method, sequence.interval().is_asymptotic) == ("exact", False)


def test_the_price_of_looking_at_all_times_is_below_two() -> None:
    values = np.random.default_rng(4).standard_normal(1000)
    sequence = AsymptoticSequence(None)
    sequence.update(values)
    fixed, (lower, upper) = compute_mean_limits(values), sequence.limits()
    assert 1 < (upper - lower) / (fixed.upper - fixed.lower) < 2
