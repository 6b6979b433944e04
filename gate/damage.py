"""The worst that a finding shows: every corruption that was applied and measured counts, however it was found."""

from collections.abc import Iterable
from typing import NamedTuple

from gate.wording import add_article, show_pair
from schemas.policy import Require
from schemas.report import Clean, Finding

HIGHER_IS_BETTER = frozenset({"accuracy", "top_3", "top_5", "top_10", "f1"})
LOWER_IS_BETTER = frozenset({"error_rate", "top_3_error_rate", "top_5_error_rate", "top_10_error_rate", "perplexity", "mse"})
ROUNDING = 1e-12


class Demand(NamedTuple):
    """A limit on one figure: at most `threshold`, or with `from_below` at least."""

    figure: str
    threshold: float
    from_below: bool

    def is_exceeded(self, observed: float) -> bool:
        """Tell whether the figure is beyond the limit by more than the rounding of a subtraction."""
        slack = ROUNDING * max(1.0, abs(self.threshold))
        return observed < self.threshold - slack if self.from_below else observed > self.threshold + slack

    def compute_excess(self, observed: float) -> float:
        """Return how far the figure is beyond the limit; negative when it is within."""
        return self.threshold - observed if self.from_below else observed - self.threshold

    def describe(self, observed: float) -> str:
        """Return the figure and the limit in words, with as many digits as it takes to tell them apart."""
        seen, limit = show_pair(observed, self.threshold)
        bound = f"at least {limit} is required" if self.from_below else f"the limit is {limit}"
        return f"{add_article(self.figure)} of {seen}; {bound}"

    def find_worst(self, figures: Iterable[float | None]) -> float | None:
        """Return the figure nearest to or furthest beyond the limit; None without any."""
        known = [figure for figure in figures if figure is not None]
        if not known:
            return None
        return min(known) if self.from_below else max(known)


def read_demand(require: Require) -> Demand:
    """Return what a condition demands of each finding."""
    metric = require.metric or ""
    if require.loss_change_at_most is not None:
        return Demand("loss change", require.loss_change_at_most, from_below=False)
    if require.drop_at_most is not None:
        return Demand(f"{metric} drop", require.drop_at_most, from_below=False)
    if require.at_most is not None:
        return Demand(metric, require.at_most, from_below=False)
    if require.at_least is not None:
        return Demand(metric, require.at_least, from_below=True)
    message = "breaking_point_at_least is no demand on a finding"
    raise ValueError(message)


def describe_non_finite(finding: Finding) -> str | None:
    """Return what a measured corruption broke; None when loss and outputs stayed finite in all of them."""
    for broken in (finding.measured.non_finite, finding.first_order.non_finite):
        if broken is not None:
            return f"makes the loss or outputs of {broken.examples} example(s) NaN or infinite"
    trials = finding.random.non_finite_trials if finding.random is not None else 0
    return f"was drawn at random, {trials} time(s), that makes the loss or outputs NaN or infinite" if trials else None


def find_observed(finding: Finding, require: Require, clean: Clean) -> float | None:
    """Return the worst figure that was measured for `require`; None when the search measured none.

    A random trial or the one-step corruption that does more damage than the search's best counts: it was
    applied and measured, so the damage is possible.
    """
    figures = _find_losses(finding) if require.loss_change_at_most is not None else _find_metric(finding, require, clean)
    return None if figures[0] is None else read_demand(require).find_worst(figures)


def _find_losses(finding: Finding) -> list[float | None]:
    """Return the search's loss change first, then those of the one-step corruption and of the random trials."""
    random = finding.random.loss_change.max if finding.random is not None else None
    return [finding.measured.loss_change, finding.first_order.loss_change, random]


def _find_metric(finding: Finding, require: Require, clean: Clean) -> list[float | None]:
    """Return the metric's value, or its drop, in the same order."""
    metric = require.metric or ""
    measured, one_step = finding.measured.metrics.get(metric), finding.first_order.metrics.get(metric)
    random = finding.random.metrics.get(metric) if finding.random is not None else None
    worst = random.worst if random is not None else None
    if measured is None:
        return [None]
    if require.drop_at_most is None:
        return [measured.value, one_step.value if one_step is not None else None, worst]
    drop = compute_drop(metric, clean.metrics.get(metric), worst)
    return [measured.drop, one_step.drop if one_step is not None else None, drop]


def compute_drop(metric: str, clean: float | None, value: float | None) -> float | None:
    """Return a metric's deterioration, positive when worse; None when a value or the metric's direction is unknown.

    >>> compute_drop("accuracy", 0.75, 0.5), compute_drop("error_rate", 0.25, 0.5)
    (0.25, 0.25)
    """
    if clean is None or value is None:
        return None
    if metric in HIGHER_IS_BETTER:
        return clean - value
    return value - clean if metric in LOWER_IS_BETTER else None
