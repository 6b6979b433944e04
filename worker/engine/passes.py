"""Passes: what a search costs, counted in passes over all of the data. Each count stands beside the code that spends it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Passes:
    """Forward and backward passes over all examples.

    >>> Passes(2, 1) + Passes(1, 0), Passes(2, 1) * 3
    (Passes(forward=3, backward=1), Passes(forward=6, backward=3))
    """

    forward: int = 0
    backward: int = 0

    def __add__(self, other: "Passes") -> "Passes":
        return Passes(self.forward + other.forward, self.backward + other.backward)

    def __mul__(self, times: int) -> "Passes":
        return Passes(self.forward * times, self.backward * times)

    @property
    def total(self) -> int:
        """Forward and backward passes together."""
        return self.forward + self.backward
