"""What a report can carry beside its searches: confidence limits, upper bounds, curvature, the theory of random trials."""

from typing import Literal

from schemas.base import Output


class Interval(Output):
    """One-sided limits of a mean; each holds on its own at `confidence`. Null: none can be given.

    population: the number of examples in the data that was sampled; null for further examples, beyond the data.
    asymptotic: the confidence is reached only as the sample grows.
    """

    lower: float | None
    upper: float | None
    confidence: float
    method: Literal["exact", "hypergeometric", "clopper_pearson", "betting", "asymptotic_t", "asymptotic_sequence"]
    population: int | None
    sample: int
    asymptotic: bool


class HeldOutMetric(Output):
    """A metric on the held-out examples under its own worst corruption: value and drop, each with its limits."""

    value: float | None
    value_interval: Interval | None
    drop: float | None
    drop_interval: Interval | None


class HeldOut(Output):
    """What the corruptions found on the data do to the examples of `evaluate_on`; means over examples."""

    examples: int
    loss_change: float | None
    interval: Interval | None
    metrics: dict[str, HeldOutMetric]


class UpperBound(Output):
    """What no corruption of the set can exceed, in exact arithmetic: of the loss change and of the drop of metrics."""

    loss_change: float | None
    kind: Literal["upper_bound"]
    status: Literal["available", "not_available"]
    reason: str | None
    metrics: dict[str, float]


class ErrorBound(Output):
    """How far the one-step corruption can be from the best in the set (Sun et al., Theorem 2); null where nothing follows."""

    c: float | None
    ratio_convex: float | None
    ratio_smooth: float | None
    regime: str
    kind: Literal["estimate"]


class Smoothness(Output):
    """The curvature of the loss at the clean weights, in the finding's scope: Hessian eigenvalues found by Lanczos."""

    largest: float
    highest: float
    lowest: float
    converged: bool
    hessian_products: int
    kind: Literal["estimate"]


class BestOf(Output):
    """The median of the best eta among `trials` random directions."""

    trials: int
    median_eta: float


class Theory(Output):
    """Theorem 1 of Sun et al. for one scope at p = 2, n = k; docs/method.md section 4."""

    scope: str
    weights: int
    gradient_norm: float
    expected_eta: float
    expected_eta_squared: float
    best_of: tuple[BestOf, ...]
    log10_trials_for_half: float
    probability: float
