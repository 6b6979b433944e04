"""Theorem 1 of Sun et al.: what random corruptions can find; method section 4."""

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

HALF = 0.5
PROBABILITY = 0.95


@dataclass(frozen=True)
class RandomTheory:
    r"""Figures for eta = |<r, g>| / (\|r\| G), r normal in R^k, p = 2 and n = k.

    best_of: trials -> median of the largest eta; log10_trials_for_half: how many random trials reach half of
    the first-order worst case with probability `probability`.
    """

    weights: int
    gradient_norm: float
    expected_eta: float
    expected_eta_squared: float
    best_of: dict[int, float]
    log10_trials_for_half: float
    probability: float


def compute_random_theory(weights: int, gradient_norm: float) -> RandomTheory:
    """Return the figures of Theorem 1 for a scope of k weights.

    Kind: exact under the theorem. Source: Sun et al., Theorem 1.

    >>> round(compute_random_theory(10_000, 1.0).expected_eta, 6)
    0.007979
    """
    return RandomTheory(
        weights=weights,
        gradient_norm=gradient_norm,
        expected_eta=compute_expected_eta(weights),
        expected_eta_squared=1.0 / weights,
        best_of={trials: compute_best_of(weights, trials) for trials in (10, 1000)},
        log10_trials_for_half=compute_log10_trials(weights, HALF, PROBABILITY),
        probability=PROBABILITY,
    )


def compute_expected_eta(weights: int) -> float:
    """Return E eta = Gamma(k/2) / (sqrt(pi) Gamma((k+1)/2)), about sqrt(2 / (pi k)).

    >>> round(compute_expected_eta(1), 12)
    1.0
    """
    return 1.0 / (float(special.poch(weights / 2, 0.5)) * math.sqrt(math.pi))


def compute_eta_cdf(
    x: "np.ndarray[tuple[int], np.dtype[np.float64]]", weights: int
) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """Return P(eta <= x) = I_{x^2}(1/2, (k-1)/2) for k >= 2."""
    return np.asarray(special.betainc(0.5, (weights - 1) / 2, x * x))


def compute_best_of(weights: int, trials: int) -> float:
    """Return the median of the largest of `trials` independent etas."""
    if weights == 1:
        return 1.0
    return math.sqrt(float(special.betaincinv(0.5, (weights - 1) / 2, 0.5 ** (1 / trials))))


def compute_log_tail(weights: int, x: float) -> float:
    """Return ln P(eta > x), 0 < x < 1; by the leading term where the library function underflows.

    The leading term is (k-1)/2 ln(1-x^2) - ln((k-1)/2) - ln x - ln B(1/2, (k-1)/2).
    """
    if weights == 1:
        return 0.0
    half = (weights - 1) / 2
    exact = float(special.betaincc(0.5, half, x * x))
    if exact > 1e-280:
        return math.log(exact)
    return half * math.log1p(-x * x) - math.log(half) - math.log(x) - float(special.betaln(0.5, half))


def compute_log10_trials(weights: int, share: float, probability: float) -> float:
    """Return log10 of the random trials that reach `share` of the first-order worst case with `probability`.

    One sign only does damage, so a trial succeeds with P(eta > share) / 2.
    """
    log_success = compute_log_tail(weights, share) - math.log(2)
    # -ln(1 - success) in a form that survives success below the smallest float.
    log_rate = math.log(-math.log1p(-math.exp(log_success))) if log_success > -30 else log_success
    return max(0.0, (math.log(-math.log1p(-probability)) - log_rate) / math.log(10))
