import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from worker.engine.statistics.fixed import compute_bounded_limits, compute_share_limits

N = 20
CONFIDENCE = Fraction(95, 100)


def count_samples(ones: int, sample: int, successes: int) -> Fraction:
    """Return the share of all samples from N values with so many ones that hold exactly `successes`, by counting them."""
    return Fraction(math.comb(ones, successes) * math.comb(N - ones, sample - successes), math.comb(N, sample))


@pytest.mark.parametrize("sample", range(1, N + 1))
def test_hypergeometric_limits_cover_every_population_of_twenty(sample: int) -> None:
    limits = [compute_share_limits(x, sample, N) for x in range(sample + 1)]
    for ones in range(N + 1):
        shares = [count_samples(ones, sample, x) if x <= ones else Fraction(0) for x in range(sample + 1)]
        assert sum(share for share, found in zip(shares, limits, strict=True) if found.lower <= ones / N) >= CONFIDENCE
        assert sum(share for share, found in zip(shares, limits, strict=True) if found.upper >= ones / N) >= CONFIDENCE


@pytest.mark.parametrize("sample", [1, 7, 15, 19])
def test_hypergeometric_limits_are_the_tightest_of_their_kind(sample: int) -> None:
    for successes in range(sample + 1):
        tails = [sum(count_samples(ones, sample, x) for x in range(successes, min(sample, ones) + 1)) for ones in range(N + 1)]
        lowest = next(ones for ones, tail in enumerate(tails) if tail > 1 - CONFIDENCE)
        assert compute_share_limits(successes, sample, N).lower == lowest / N
        assert compute_share_limits(sample - successes, sample, N).upper == (N - lowest) / N


@pytest.mark.parametrize(("successes", "sample"), [(0, 1), (0, 50), (1, 50), (25, 50), (49, 50), (50, 50), (990, 1000)])
def test_limits_of_independent_draws_are_those_of_clopper_and_pearson(successes: int, sample: int) -> None:
    known = stats.binomtest(successes, sample).proportion_ci(confidence_level=0.9, method="exact")
    found = compute_share_limits(successes, sample)
    assert (found.lower, found.upper) == pytest.approx((known.low, known.high), abs=1e-9)
    assert (found.method, found.population) == ("clopper_pearson", None)


def test_a_large_population_is_like_independent_draws() -> None:
    finite, infinite = compute_share_limits(30, 100, 10_000_000), compute_share_limits(30, 100)
    assert (finite.lower, finite.upper) == pytest.approx((infinite.lower, infinite.upper), abs=1e-5)


def test_the_whole_population_leaves_no_doubt() -> None:
    share = compute_share_limits(13, N, N)
    assert (share.lower, share.upper, share.method) == (13 / N, 13 / N, "exact")
    mean = compute_bounded_limits([-1, 0, 1, 1, 1], population=5, low=-1)
    assert (mean.lower, mean.upper, mean.method) == (0.4, 0.4, "exact")


@pytest.mark.parametrize(("successes", "sample", "population"), [(3, 2, None), (-1, 2, None), (1, 5, 4)])
def test_counts_that_contradict_each_other_are_refused(successes: int, sample: int, population: int | None) -> None:
    with pytest.raises(ValueError, match=r"share|population"):
        compute_share_limits(successes, sample, population)


@pytest.mark.parametrize("population", [None, 400])
def test_limits_of_bounded_values_cover_also_in_sorted_files(population: int | None) -> None:
    values = np.repeat([-1.0, 0.0, 1.0], [8, 290, 102])
    truth, generator, runs = values.mean(), np.random.default_rng(5), 300
    held = np.zeros(2)
    for _ in range(runs):
        sample = np.sort(generator.choice(values, 120, replace=population is None))
        found = compute_bounded_limits(sample, population, low=-1)
        held += found.lower <= truth, found.upper >= truth
        assert found.upper - found.lower < 2 * math.sqrt(2 * math.log(20) / 120)  # Hoeffding's limits for a range of 2
    assert held.min() >= stats.binom.ppf(0.001, runs, 0.95)
