"""Precision on demand: examples are measured until the question is answered; method section 8."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from worker.engine.statistics.asymptotic import AsymptoticSequence
from worker.engine.statistics.betting import BettingSequence
from worker.engine.statistics.interval import Decision, Interval, decide

Draw = Callable[[int, int], object]
"""Returns the values of rows start..stop of the permuted population, [stop - start]."""


@dataclass(frozen=True)
class Target:
    """What ends the drawing; both limits within relative_error |estimate| of the estimate, or a threshold cleared.

    Where both are given, both have to be reached.
    """

    relative_error: float | None = None
    threshold: float | None = None

    def is_reached(self, interval: Interval, estimate: float) -> bool:
        """Return whether the interval answers the question."""
        if self.threshold is not None and decide(interval, self.threshold) == "between":
            return False
        if self.relative_error is None:
            return self.threshold is not None
        return max(interval.upper - estimate, estimate - interval.lower) <= self.relative_error * abs(estimate)


@dataclass(frozen=True)
class PrecisionResult:
    """The mean of the examples used, its limits, and the side of the threshold (None without one)."""

    estimate: float
    interval: Interval
    examples: int
    decision: Decision | None


def permute_rows(population: int, seed: int) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    """Return the seeded random order in which a population's rows are drawn."""
    return np.random.default_rng(seed).permutation(population)


def run_precision(
    draw: Draw,
    population: int,
    target: Target,
    confidence: float = 0.95,
    bounds: tuple[float, float] | None = None,
    batches: tuple[int, float] = (64, 1.5),
) -> PrecisionResult:
    """Draw without replacement until the target is reached or the population is used up, and then the mean is exact.

    Kind: confidence limits that hold whenever the drawing stops: by betting within bounds, else asymptotic.

    Args:
        draw: the values of rows start..stop of a random permutation of the population.
        population: N.
        target: what ends the drawing.
        confidence: of each limit on its own.
        bounds: (low, high) of the values; None: unbounded.
        batches: size of the first batch, and the factor by which the rows drawn grow at each look.

    Returns:
        The mean of what was drawn, its limits, and how many examples that took.

    Raises:
        ValueError: there is nothing to draw, `draw` gives too few or too many values, or one out of bounds.

    >>> result = run_precision(lambda start, stop: [1.0] * (stop - start), 1000, Target(threshold=0.5), bounds=(0.0, 1.0))
    >>> result.decision, result.examples
    ('above', 64)
    """
    first, growth = batches
    if population < 1 or first < 1 or growth <= 1:
        message = f"nothing to draw from {population} examples in batches of {first} that grow by {growth}"
        raise ValueError(message)
    sequence = AsymptoticSequence(population, confidence) if bounds is None else BettingSequence(population, confidence, *bounds)
    start, stop = 0, min(first, population)
    while True:
        sequence.update(draw(start, stop))
        interval, estimate = sequence.interval(), sequence.estimate()
        if interval.sample != stop:
            message = f"draw({start}, {stop}) gave {interval.sample - start} values"
            raise ValueError(message)
        if stop == population or target.is_reached(interval, estimate):
            decision = None if target.threshold is None else decide(interval, target.threshold)
            return PrecisionResult(estimate, interval, stop, decision)
        start, stop = stop, min(population, max(stop + 1, math.ceil(stop * growth)))
