"""Interval: one-sided limits for a mean, and whether they are clear of a threshold; method section 8."""

from dataclasses import dataclass
from typing import Literal

Method = Literal["exact", "hypergeometric", "clopper_pearson", "betting", "asymptotic_t", "asymptotic_sequence"]


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


@dataclass(frozen=True)
class Threshold:
    """A figure is to be at most `value`, or with `from_below` at least."""

    value: float
    from_below: bool = False

    def is_clear(self, interval: Interval) -> bool:
        """Tell whether the limits decide on which side the figure is; an asymptotic one may condemn, but not acquit."""
        if self.from_below:
            broken, kept = interval.upper < self.value, interval.lower >= self.value
        else:
            broken, kept = interval.lower > self.value, interval.upper <= self.value
        return broken or (kept and not interval.is_asymptotic)
