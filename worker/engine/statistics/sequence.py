"""Confidence sequences: limits that hold at all looks together; method section 8."""

import math
from abc import ABC, abstractmethod

import numpy as np

from worker.engine.statistics.interval import Interval, Method

Values = np.ndarray[tuple[int], np.dtype[np.float64]]


def read_values(values: object, low: float = -math.inf, high: float = math.inf) -> Values:
    """Return the values as float64 [m]; ValueError for one that is not finite or out of bounds."""
    vector: Values = np.asarray(values, dtype=np.float64).reshape(-1)
    if not np.isfinite(vector).all() or (vector < low).any() or (vector > high).any():
        message = f"values must be finite and within [{low}, {high}]"
        raise ValueError(message)
    return vector


def check_sample(sample: int, population: int | None, confidence: float) -> None:
    """Refuse a sample larger than its population, and a confidence at which a lower limit may exceed the upper one."""
    if not 0.5 < confidence < 1 or (population is not None and sample > population):
        message = f"{sample} values from a population of {population} at confidence {confidence}: at most all, above 0.5, below 1"
        raise ValueError(message)


def compute_mean(values: Values) -> float:
    """Return the mean, rounded once, so that it does not depend on the order; NaN for no values."""
    return math.fsum(values) / len(values) if len(values) else math.nan


class ConfidenceSequence(ABC):
    """Limits for the mean of a population (None: of independent draws), each at the confidence whenever one stops looking.

    What is certain (values not seen lie in [low, high]) is used too, so the limits meet when the population is used up.
    Limits that contradict each other or what is certain prove a miss, and then only what is certain stands.
    """

    method: Method

    def __init__(self, population: int | None, confidence: float, low: float, high: float) -> None:
        check_sample(0, population, confidence)
        self.population, self.confidence, self._low, self._high = population, confidence, low, high
        self._values: Values = np.empty(0)
        self._looked = 0
        self._lower, self._upper = low, high

    def update(self, values: object) -> None:
        """Take the next values of the random order; ValueError if one is out of bounds or there are too many."""
        together = np.concatenate([self._values, read_values(values, self._low, self._high)])
        check_sample(len(together), self.population, self.confidence)
        self._values = together

    def __len__(self) -> int:
        return len(self._values)

    @abstractmethod
    def _look(self) -> tuple[float, float]:
        """Return the limits at this look."""

    def limits(self) -> tuple[float, float]:
        """Look at the values so far, and return the lower and the upper limit."""
        if self._looked < len(self._values) != self.population:
            lower, upper = self._look()
            self._lower, self._upper = max(lower, self._lower), min(upper, self._upper)
            self._looked = len(self._values)
        lowest, highest = self._bound()
        lower, upper = max(lowest, self._lower), min(highest, self._upper)
        return (lower, upper) if lower <= upper else (lowest, highest)

    def interval(self) -> Interval:
        """Return the limits as an interval."""
        sample = len(self._values)
        method = "exact" if sample == self.population else self.method
        return Interval(*self.limits(), self.confidence, method, self.population, sample)

    def estimate(self) -> float:
        """Return the mean of the values seen."""
        return compute_mean(self._values)

    def _bound(self) -> tuple[float, float]:
        if self.population is None:
            return self._low, self._high
        if len(self._values) == self.population:
            return self.estimate(), self.estimate()
        total, left = math.fsum(self._values), self.population - len(self._values)
        return (total + left * self._low) / self.population, (total + left * self._high) / self.population
