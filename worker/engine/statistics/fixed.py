"""Limits from one sample of fixed size; method section 8."""

import numpy as np
from scipy import stats

from worker.engine.statistics.asymptotic import compute_mean_limits
from worker.engine.statistics.betting import BettingSequence
from worker.engine.statistics.interval import Interval
from worker.engine.statistics.sequence import Values, check_sample, read_values


def compute_share_limits(successes: int, sample: int, population: int | None = None, confidence: float = 0.95) -> Interval:
    """Return limits for the share of ones among values in {0, 1}.

    The lower limit is the smallest share under which a sample of `sample` values with so many ones or more has a
    probability above 1 - confidence; the upper limit is the same for the zeros.

    Kind: confidence limits, at any sample size. Source: Clopper and Pearson (1934) for independent draws (population
    None); the same inversion of the hypergeometric law without replacement.

    Returns:
        The interval; of width 0 when the population is used up.

    Raises:
        ValueError: the counts contradict each other, or the confidence is not in (0.5, 1).

    >>> round(compute_share_limits(0, 10).upper, 4), compute_share_limits(2, 10, population=10).upper
    (0.2589, 0.2)
    """
    check_sample(sample, population, confidence)
    if not 0 <= successes <= sample:
        message = f"{successes} of {sample} is no share"
        raise ValueError(message)
    alpha, failures = 1 - confidence, sample - successes
    if population is None:
        lower = float(stats.beta.ppf(alpha, successes, failures + 1)) if successes else 0.0
        upper = float(stats.beta.ppf(confidence, successes + 1, failures)) if failures else 1.0
        return Interval(lower, upper, confidence, "clopper_pearson", None, sample)
    lower = _find_fewest(successes, sample, population, alpha) / population
    upper = (population - _find_fewest(failures, sample, population, alpha)) / population
    return Interval(lower, upper, confidence, "exact" if sample == population else "hypergeometric", population, sample)


def _find_fewest(successes: int, sample: int, population: int, alpha: float) -> int:
    """Return the smallest K with P(so many successes or more | K ones in the population) > alpha; P grows with K."""
    low, high = successes, population - sample + successes
    while low < high:
        middle = (low + high) // 2
        plausible = stats.hypergeom.sf(successes - 1, population, middle, sample) > alpha
        low, high = (low, middle) if plausible else (middle + 1, high)
    return low


def compute_bounded_limits(
    values: object, population: int | None = None, confidence: float = 0.95, low: float = 0.0, high: float = 1.0
) -> Interval:
    """Return limits for the mean of values in [low, high], by betting on them in a seeded order: a file may be sorted.

    >>> compute_bounded_limits([-1.0, 0.0, 1.0, 1.0], population=4, low=-1.0).lower
    0.25
    """
    sample = read_values(values, low, high)
    sequence = BettingSequence(population, confidence, low, high, horizon=max(1, len(sample)))
    sequence.update(np.random.default_rng(0).permutation(sample))
    return sequence.interval()


def compute_limits(values: Values, bounds: tuple[float, float] | None, population: int | None, confidence: float) -> Interval:
    """Return the limits that fit the values: for shares, for values within bounds (low, high), or for unbounded ones.

    >>> compute_limits(np.ones(4), (0.0, 1.0), 4, 0.95).method, compute_limits(np.ones(4), None, 8, 0.95).method
    ('exact', 'asymptotic_t')
    """
    if bounds is None:
        return compute_mean_limits(values, population, confidence)
    if bounds == (0.0, 1.0) and np.isin(values, (0.0, 1.0)).all():
        return compute_share_limits(round(float(values.sum())), len(values), population, confidence)
    return compute_bounded_limits(values, population, confidence, *bounds)
