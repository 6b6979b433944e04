"""Held-out data: what corruptions that were searched on D do to other examples, with limits beyond them; method section 8."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from worker.engine.examples import measure_batches
from worker.engine.objective import HIGHER_IS_BETTER
from worker.engine.session import Session
from worker.engine.statistics.asymptotic import compute_mean_limits
from worker.engine.statistics.fixed import compute_bounded_limits, compute_share_limits
from worker.engine.statistics.interval import Interval
from worker.engine.statistics.sequence import Values
from worker.engine.tally import TOP


@dataclass(frozen=True)
class ExampleFigures:
    """One value per independent example [N]: its mean loss, and the share of its labels that each top-k counts as right.

    Examples count alike, so a figure is the mean over examples; `labels` is how many labels each has, or None where that
    differs: then means over examples and over labels are two things, and no limits are given.
    """

    losses: Values
    shares: dict[str, Values]
    labels: int | None


@dataclass(frozen=True)
class HeldOutFigure:
    """A figure on the held-out data and its limits; None where there can be none."""

    value: float | None
    interval: Interval | None


def measure_examples(session: Session, parameters: Mapping[str, Tensor]) -> ExampleFigures:
    """Return what the weights in `parameters`, the others clean, do to each example. One forward pass."""
    sums = session.run(lambda: measure_batches(session.program, session.objective, parameters, session.batches()))
    divisor = np.maximum(sums.labels, 1)
    shares = {}
    for name in session.objective.metrics:
        if name in TOP:
            share = sums.right[TOP[name]] / divisor
            shares[name] = share if name in HIGHER_IS_BETTER else 1 - share
    alike = sums.labels[0] > 0 and (sums.labels == sums.labels[0]).all()
    return ExampleFigures(sums.losses / divisor, shares, int(sums.labels[0]) if alike else None)


def compare_losses(clean: ExampleFigures, corrupted: ExampleFigures, confidence: float) -> HeldOutFigure:
    """Return the loss change and asymptotic limits for its mean; no value where a loss is non-finite."""
    changes = corrupted.losses - clean.losses
    if not np.isfinite(changes).all():
        return HeldOutFigure(None, None)
    limited = clean.labels is not None and len(changes) > 1
    return HeldOutFigure(float(changes.mean()), compute_mean_limits(changes, None, confidence) if limited else None)


def compare_shares(metric: str, clean: ExampleFigures, corrupted: ExampleFigures, confidence: float) -> HeldOutFigure:
    """Return a metric's drop, positive when worse, and betting limits for its mean."""
    sign = 1.0 if metric in HIGHER_IS_BETTER else -1.0
    drops = sign * (clean.shares[metric] - corrupted.shares[metric])
    limits = None if clean.labels is None else compute_bounded_limits(drops, None, confidence, -1.0, 1.0)
    return HeldOutFigure(float(drops.mean()), limits)


def limit_share(metric: str, figures: ExampleFigures, confidence: float) -> HeldOutFigure:
    """Return a metric's value and limits: Clopper-Pearson where each example has one label, else by betting."""
    values = figures.shares[metric]
    if figures.labels is None:
        return HeldOutFigure(float(values.mean()), None)
    if figures.labels == 1:
        return HeldOutFigure(
            float(values.mean()), compute_share_limits(round(float(values.sum())), len(values), None, confidence)
        )
    return HeldOutFigure(float(values.mean()), compute_bounded_limits(values, None, confidence))
