"""Records: what was measured in a cell, and the pool of what was found in other cells."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import Tensor

from worker.engine.corruption import CorruptionSet
from worker.engine.scopes import Layout
from worker.engine.tally import Outcome, compute_drop


@dataclass(frozen=True)
class Clean:
    """The uncorrupted model: its outcome, with a finite loss and metrics."""

    loss: float
    metrics: dict[str, float]

    def compute_damage(self, what: str, outcome: Outcome) -> float:
        """Return the damage to `what` ("loss" or a metric): infinite where the outcome is non-finite."""
        if what == "loss":
            return float("inf") if outcome.loss is None else outcome.loss - self.loss
        drop = compute_drop(what, self.metrics[what], outcome.metrics[what])
        return float("inf") if drop is None else drop


@dataclass(frozen=True)
class Candidate:
    """A feasible corruption [k] that was applied and measured."""

    method: str
    outcome: Outcome
    corruption: Tensor


@dataclass
class Record:
    """What one cell's search has measured so far: the worst for the loss and for each metric, and the first step.

    trace: the largest damage to the loss after each measurement.
    """

    clean: Clean
    first_order: Outcome | None = None
    worst: dict[str, Candidate] = field(default_factory=dict)
    trace: list[float] = field(default_factory=list)

    def offer(self, candidate: Candidate) -> None:
        """Keep the candidate wherever it is the worst so far."""
        for what in ("loss", *self.clean.metrics):
            kept = self.worst.get(what)
            damage = self.clean.compute_damage(what, candidate.outcome)
            if kept is None or damage > self.clean.compute_damage(what, kept.outcome):
                self.worst[what] = candidate

    def take(self, candidate: Candidate) -> None:
        """Keep the candidate as a step of the search."""
        self.first_order = self.first_order or candidate.outcome
        self.offer(candidate)
        self.trace.append(self.clean.compute_damage("loss", self.worst["loss"].outcome))


@dataclass(frozen=True)
class Known:
    """The worst corruption found in some cell, over the tensors of its layout."""

    layout: Layout
    candidate: Candidate


@dataclass
class Pool:
    """The worst corruptions of the cells that are done: each is feasible in every cell whose set and scope hold it.

    So results never fall as sets and scopes grow, whatever the search of the larger cell does.
    """

    clean: Clean
    known: list[Known] = field(default_factory=list)

    def add(self, layout: Layout, candidates: Iterable[Candidate]) -> None:
        """Add what a cell found."""
        distinct = {id(candidate): candidate for candidate in candidates}
        self.known += [Known(layout, candidate) for candidate in distinct.values() if candidate.corruption.any()]

    def find(self, layout: Layout, corruption_set: CorruptionSet) -> list[Candidate]:
        """Return, for the loss and for each metric, the worst known corruption that the set allows in the layout's scope."""
        inside = [entry for entry in self.known if layout.holds(entry.layout)]
        regions = {entry.layout: entry.layout.build_region(corruption_set) for entry in inside}
        found: dict[int, Candidate] = {}
        for what in ("loss", *self.clean.metrics):
            for entry in sorted(inside, key=lambda entry: -self.clean.compute_damage(what, entry.candidate.outcome)):
                if regions[entry.layout].contains(entry.candidate.corruption):
                    found[id(entry)] = entry.candidate if entry.layout is layout else self._embed(entry, layout)
                    break
        return list(found.values())

    @staticmethod
    def _embed(entry: Known, layout: Layout) -> Candidate:
        vector = layout.embed(entry.layout, entry.candidate.corruption)
        return Candidate(entry.candidate.method, entry.candidate.outcome, vector)
