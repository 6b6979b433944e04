"""Records: what was measured in a cell, and the pool of what was found in other cells."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from worker.engine.corruption import Corruption, CorruptionSet, measure_norm
from worker.engine.filed import file_away
from worker.engine.regions import SLACK
from worker.engine.scopes import Layout
from worker.engine.tally import Outcome, compute_drop

POOL_BYTES = 2**30
"""Corruptions that cells leave to larger ones."""


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
    corruption: Corruption


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
        worse = [what for what in ("loss", *self.clean.metrics) if self._is_worse(what, candidate)]
        if worse:
            kept = replace(candidate, corruption=file_away(candidate.corruption))
            self.worst.update(dict.fromkeys(worse, kept))

    def _is_worse(self, what: str, candidate: Candidate) -> bool:
        kept, damage = self.worst.get(what), self.clean.compute_damage(what, candidate.outcome)
        return kept is None or damage > self.clean.compute_damage(what, kept.outcome)

    def offer_nothing(self) -> None:
        """Where everything that was measured helps, keep no corruption at all: every set is a ball and holds it."""
        damages = [self.clean.compute_damage(what, kept.outcome) for what, kept in self.worst.items()]
        if min(damages, default=0.0) < 0:
            unchanged = Outcome(self.clean.loss, {**self.clean.metrics}, 0)
            worst = self.worst["loss"].corruption
            self.offer(Candidate("none", unchanged, worst[:0].new_zeros(worst.numel())))

    def take(self, candidate: Candidate) -> None:
        """Keep the candidate as a step of the search."""
        self.first_order = self.first_order or candidate.outcome
        self.offer(candidate)
        self.trace.append(self.clean.compute_damage("loss", self.worst["loss"].outcome))


@dataclass(frozen=True)
class Known:
    """The worst corruption found in some cell, over the tensors of its layout. largest: of its entries, in magnitude."""

    layout: Layout
    candidate: Candidate
    largest: float

    def may_be_in(self, corruption_set: CorruptionSet) -> bool:
        """Tell, at no cost, whether the set can hold it: no entry is larger than a p-norm."""
        return corruption_set.scale != "absolute" or self.largest <= corruption_set.epsilon * (1 + SLACK)


@dataclass
class Pool:
    """The worst corruptions of the cells that are done: each is feasible in every cell whose set and scope hold it.

    So results never fall as sets and scopes grow, whatever the search of the larger cell does. Kept while there is room, in the
    order in which they were found: beyond it, in models of many million weights, cells stand for themselves.
    """

    clean: Clean
    known: list[Known] = field(default_factory=list)
    room_bytes: int = POOL_BYTES

    def add(self, layout: Layout, candidates: Iterable[Candidate]) -> None:
        """Add what a cell found."""
        for candidate in {id(candidate): candidate for candidate in candidates}.values():
            largest = measure_norm(candidate.corruption, math.inf)
            size = candidate.corruption.numel() * candidate.corruption[:0].itemsize
            if largest > 0 and size <= self.room_bytes:
                self.known.append(Known(layout, candidate, largest))
                self.room_bytes -= size

    def find(self, layout: Layout, corruption_set: CorruptionSet, record: Record) -> list[Candidate]:
        """Return what is worse than the record among the known corruptions that the set allows in the layout's scope.

        Returns:
            At most one candidate for the loss and one for each metric, in this order.
        """
        inside = [entry for entry in self.known if entry.may_be_in(corruption_set) and layout.holds(entry.layout)]
        regions = {}  # by layout, built when first needed
        found: dict[int, Candidate] = {}
        for what in ("loss", *self.clean.metrics):
            kept = record.worst.get(what)
            least = -math.inf if kept is None else self.clean.compute_damage(what, kept.outcome)
            damages = [(self.clean.compute_damage(what, entry.candidate.outcome), entry) for entry in inside]
            for _, entry in sorted((pair for pair in damages if pair[0] > least), key=lambda pair: -pair[0]):
                if entry.layout not in regions:
                    regions[entry.layout] = entry.layout.build_region(corruption_set)
                if regions[entry.layout].contains(entry.candidate.corruption):
                    found[id(entry)] = entry.candidate if entry.layout is layout else self._embed(entry, layout)
                    break
        return list(found.values())

    @staticmethod
    def _embed(entry: Known, layout: Layout) -> Candidate:
        vector = layout.embed(entry.layout, entry.candidate.corruption)
        return Candidate(entry.candidate.method, entry.candidate.outcome, vector)
