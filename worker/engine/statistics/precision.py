"""Precision on demand: examples are measured until the question is answered; method section 8."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from worker.engine.statistics.asymptotic import AsymptoticSequence
from worker.engine.statistics.betting import BettingSequence
from worker.engine.statistics.interval import Interval, Threshold
from worker.engine.statistics.sequence import ConfidenceSequence

Draw = Callable[[int, int], Sequence[object]]
"""Returns, for each question, the values of rows start..stop of the permuted population, [stop - start]."""


@dataclass(frozen=True)
class Target:
    """What a question waits for: limits within relative_error |estimate| of the estimate, and clear of every threshold.

    With neither it waits until the population is used up.
    """

    relative_error: float | None = None
    thresholds: tuple[Threshold, ...] = ()

    def is_reached(self, interval: Interval, estimate: float) -> bool:
        """Return whether the interval answers the question."""
        if not all(threshold.is_clear(interval) for threshold in self.thresholds):
            return False
        if self.relative_error is None:
            return bool(self.thresholds)
        return max(interval.upper - estimate, estimate - interval.lower) <= self.relative_error * abs(estimate)


@dataclass(frozen=True)
class Question:
    """The mean of one value per example: within which bounds the values lie (None: unbounded), and what ends the drawing.

    target: None when the question takes what the others need.
    """

    bounds: tuple[float, float] | None
    target: Target | None = Target()

    def begin(self, population: int, confidence: float) -> ConfidenceSequence:
        """Return the sequence of limits that fits the bounds."""
        if self.bounds is None:
            return AsymptoticSequence(population, confidence)
        return BettingSequence(population, confidence, *self.bounds)

    def is_answered(self, sequence: ConfidenceSequence) -> bool:
        """Return whether the limits suffice."""
        return self.target is None or self.target.is_reached(sequence.interval(), sequence.estimate())


@dataclass(frozen=True)
class Answer:
    """The mean of the examples used, and its limits."""

    estimate: float
    interval: Interval


def permute_rows(population: int, seed: int) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    """Return the seeded random order in which a population's rows are drawn."""
    return np.random.default_rng(seed).permutation(population)


def run_precision(
    draw: Draw,
    population: int,
    questions: Sequence[Question],
    confidence: float = 0.95,
    batches: tuple[int, float] = (64, 1.5),
) -> list[Answer]:
    """Draw without replacement until all questions are answered or the population is used up, and then the means are exact.

    Kind: confidence limits that hold whenever the drawing stops: by betting within bounds, else asymptotic.

    Args:
        draw: the values of rows start..stop of a random permutation of the population, for each question.
        population: N.
        questions: what is asked of the rows.
        confidence: of each limit on its own.
        batches: size of the first batch, and the factor by which the rows drawn grow at each look.

    Returns:
        For each question the mean of what was drawn and its limits; all have the same sample.

    Raises:
        ValueError: there is nothing to draw, `draw` gives too few or too many values, or one out of bounds.

    >>> question = Question((0.0, 1.0), Target(thresholds=(Threshold(0.5),)))
    >>> [answer] = run_precision(lambda start, stop: [[1.0] * (stop - start)], 1000, [question])
    >>> answer.estimate, answer.interval.sample, answer.interval.lower > 0.5
    (1.0, 64, True)
    """
    first, growth = batches
    if population < 1 or first < 1 or growth <= 1:
        message = f"nothing to draw from {population} examples in batches of {first} that grow by {growth}"
        raise ValueError(message)
    sequences = [question.begin(population, confidence) for question in questions]
    start, stop = 0, min(first, population)
    while True:
        for sequence, values in zip(sequences, draw(start, stop), strict=True):
            sequence.update(values)
            if len(sequence) != stop:
                message = f"draw({start}, {stop}) gave {len(sequence) - start} values"
                raise ValueError(message)
        if stop == population or all(map(Question.is_answered, questions, sequences)):
            return [Answer(sequence.estimate(), sequence.interval()) for sequence in sequences]
        start, stop = stop, min(population, max(stop + 1, math.ceil(stop * growth)))
