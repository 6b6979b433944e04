"""Interval: one-sided limits for a mean, and what they decide about a threshold; method section 8."""

from dataclasses import dataclass
from typing import Literal

Method = Literal["exact", "hypergeometric", "clopper_pearson", "betting", "asymptotic_t", "asymptotic_sequence"]
Decision = Literal["above", "below", "between"]


@dataclass(frozen=True)
class Interval:
    """Two limits for a mean; each holds on its own with probability `confidence`, both together with 2 confidence - 1.

    population: the size of the finite population that was sampled without replacement; None for independent draws.
    A limit that the sample cannot give is infinite. Methods that start with "asymptotic" reach the confidence only as
    the sample grows.
    """

    lower: float
    upper: float
    confidence: float
    method: Method
    population: int | None
    sample: int

    @property
    def is_asymptotic(self) -> bool:
        """Whether the confidence is reached only as the sample grows."""
        return self.method.startswith("asymptotic")


def decide(interval: Interval, threshold: float) -> Decision:
    """Return where the mean is: above if the lower limit exceeds the threshold, below if the upper one does not.

    >>> decide(Interval(0.2, 0.3, 0.95, "betting", 500, 80), 0.1)
    'above'
    """
    if interval.lower > threshold:
        return "above"
    return "below" if interval.upper <= threshold else "between"
