"""Limits for the mean of unbounded values, which hold as the sample grows; method section 8."""

import math

import numpy as np
from scipy import stats

from worker.engine.statistics.interval import Interval
from worker.engine.statistics.sequence import ConfidenceSequence, Values, check_sample, compute_mean, read_values

SMALLEST_SAMPLE = 100
"""Below it the limits are infinite."""
LEAST_PER_SKEWNESS = 8
"""A limit on the side of the longer tail needs this many values per squared skewness of the sample, else it is infinite:
where few examples carry the mean, a sample that missed them would give a limit that is far too good."""
SMALLEST_REST = 0.1
"""The finite-population correction counts at least this share as not seen yet: near the end it is the few values that are
left, not their normal limit, that decide how far the mean still moves."""


class AsymptoticSequence(ConfidenceSequence):
    r"""Limits for the mean of unbounded values.

    (mean_t - m) V_t with V_t = t / (1 - t/N) is without replacement a martingale of variance V_t sigma^2, as it is for
    independent draws with V_t = t. A half-normal mixture over drifts of scale rho gives the one-sided margin
    sigma_t sqrt(2 (V rho^2 + 1) / (V rho)^2  ln(1 + sqrt(V rho^2 + 1) / (2 alpha))), sigma_t the sample's deviation.

    Kind: confidence limits, asymptotic. Source: Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-uniform central
    limit theory and asymptotic confidence sequences", Annals of Statistics 52 (2024), the one-sided form. Ours: time as
    information V_t, the skewness correction of `compute_mean_limits`, and the three constants above.
    """

    method = "asymptotic_sequence"

    def __init__(self, population: int | None, confidence: float = 0.95) -> None:
        super().__init__(population, confidence, -math.inf, math.inf)

    def _look(self) -> tuple[float, float]:
        count, alpha = len(self._values), 1 - self.confidence
        information = count / _compute_rest(count, self.population)
        # Tightest near a quarter of the population, by the first terms of the best rho^2 (two sides at 2 alpha).
        aim = max(SMALLEST_SAMPLE, (self.population or 0) / 4)
        log = -2 * math.log(min(2 * alpha, 0.5))
        growth = 1 + information * (log + math.log(log + 1)) / aim
        margin = math.sqrt(2 * growth / (growth - 1) * math.log1p(math.sqrt(growth) / (2 * alpha))) if count else math.inf
        return _place_limits(self._values, self.population, margin)


def compute_mean_limits(values: object, population: int | None = None, confidence: float = 0.95) -> Interval:
    r"""Return limits for the mean of unbounded values from one sample of fixed size m.

    mean -/+ t_{m-1} s sqrt((1 - m/N) / m), and the limit on the side of the longer tail moved outwards by the first
    skewness correction, |skewness| s (2 t^2 + 1) / (6 m). Nothing is ever moved inwards.

    Kind: confidence limits, asymptotic; exact when m = N. Source: Student; Hall, "Inverting an Edgeworth expansion",
    Annals of Statistics 11 (1983).

    Args:
        values: [m], one per independent example.
        population: N, or None for independent draws.
        confidence: of each limit on its own.

    Returns:
        The interval; limits are infinite where the sample is too small, too skewed or constant.
    """
    sample = read_values(values)
    count = len(sample)
    check_sample(count, population, confidence)
    if count == population:
        return Interval(compute_mean(sample), compute_mean(sample), confidence, "exact", population, count)
    margin = float(stats.t.ppf(confidence, max(1, count - 1)))
    return Interval(*_place_limits(sample, population, margin), confidence, "asymptotic_t", population, count)


def _compute_rest(count: int, population: int | None) -> float:
    return 1.0 if population is None else max(SMALLEST_REST, 1 - count / population)


def _place_limits(values: Values, population: int | None, margin: float) -> tuple[float, float]:
    """Return mean -/+ margin standard errors, the side of the longer tail corrected for skewness."""
    count = len(values)
    spread = float(values.std(ddof=1)) if count >= SMALLEST_SAMPLE else 0.0
    if spread == 0:
        return -math.inf, math.inf
    mean, error = compute_mean(values), margin * spread * math.sqrt(_compute_rest(count, population) / count)
    skewness = float(np.mean(((values - mean) / spread) ** 3))
    shift = skewness * spread * (2 * margin**2 + 1) / (6 * count)
    if count < LEAST_PER_SKEWNESS * skewness**2:
        shift = math.copysign(math.inf, skewness)
    return mean - error + min(0.0, shift), mean + error + max(0.0, shift)
