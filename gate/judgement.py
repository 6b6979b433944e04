"""What one finding or breaking point says about one condition."""

from typing import Literal, NamedTuple

State = Literal["holds", "between", "undecided", "exceeded"]
"""between: the threshold lies between the confidence limits, and the condition's `undecided` says what follows."""


class Judgement(NamedTuple):
    """The state of one match, and the sentence that says why.

    kinds, scope: what a waiver's scope is compared with. badness: larger is worse, to choose which match to show.
    """

    state: State
    kinds: frozenset[str]
    scope: str
    finding: str | None
    observed: float | None
    badness: float
    message: str
