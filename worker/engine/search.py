"""Search: the worst corruption found in each cell of a scope, and the random corruptions beside it; method sections 2-4."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from worker.engine.corruption import CorruptionSet, compute_closed_form, draw_random_corruption
from worker.engine.scopes import Scope
from worker.engine.session import Evaluator
from worker.engine.strategies import STRATEGIES, Move, Purse, SearchProblem, Strategy
from worker.engine.tally import Outcome, compute_drop

CORRUPTED_BYTES = 128 * 2**20
"""Corrupted copies of a scope's weights that are held at once, so that they share one clean pass."""

StopTest = Callable[[Outcome], bool]


@dataclass(frozen=True)
class SearchSettings:
    """method: a key of STRATEGIES; budget_passes: forward and backward passes per cell."""

    method: str = "reapplied"
    budget_passes: int = 64
    random_trials: int = 20
    seed: int = 0


@dataclass(frozen=True)
class Cell:
    """One scope and one corruption set; `asked` are the max_corrupted values that come to the same set."""

    scope: Scope
    corruption_set: CorruptionSet
    asked: tuple[int | None, ...]


@dataclass(frozen=True)
class Candidate:
    """A feasible corruption [k] that was applied and measured."""

    method: str
    outcome: Outcome
    corruption: Tensor


@dataclass(frozen=True)
class CellResult:
    """What the search found in a cell. Every outcome was measured, so each is a lower bound."""

    cell: Cell
    weights: int
    predicted: float
    first_order: Outcome
    worst: dict[str, Candidate]
    """The worst for "loss" and for each metric, over everything measured."""
    random: tuple[Outcome, ...]
    stop_reason: str
    forward: int
    backward: int


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


@dataclass
class Record:
    """What one cell's search has measured so far: the worst for the loss and for each metric, and the first step."""

    clean: Clean
    first_order: Outcome | None = None
    worst: dict[str, Candidate] = field(default_factory=dict)

    def offer(self, candidate: Candidate) -> None:
        """Keep the candidate wherever it is the worst so far."""
        for what in ("loss", *self.clean.metrics):
            kept = self.worst.get(what)
            damage = self.clean.compute_damage(what, candidate.outcome)
            if kept is None or damage > self.clean.compute_damage(what, kept.outcome):
                self.worst[what] = candidate


@dataclass
class Run:
    """One cell's strategy on its way."""

    record: Record
    purse: Purse
    strategy: Strategy
    move: Move | None = None
    stop_reason: str | None = None

    def begin(self) -> None:
        """Ask the strategy for its first corruption."""
        self.move = next(self.strategy)

    @property
    def affords_gradient(self) -> bool:
        """Whether a gradient is wanted here, and the budget allows a step and a measurement of where it leads."""
        return self.purse.steps_left > 0 and self.move is not None and self.move.wants_gradient

    def take(self, outcome: Outcome, gradient: Tensor | None, stop_when: StopTest | None) -> None:
        """Record what was measured and ask the strategy where to go from there."""
        move = self.move
        if move is None:
            message = "there is no corruption to measure"
            raise RuntimeError(message)
        self.record.offer(Candidate(move.method, outcome, move.corruption))
        self.record.first_order = self.record.first_order or outcome
        self.purse.forward += 1
        self.purse.backward += gradient is not None
        if outcome.non_finite:
            self.stop_reason = "non_finite"
        elif (stop_when is not None and stop_when(outcome)) or (gradient is not None and not torch.isfinite(gradient).all()):
            self.stop_reason = "converged"
        else:
            self._advance(outcome, gradient)

    def _advance(self, outcome: Outcome, gradient: Tensor | None) -> None:
        try:
            self.move = self.strategy.send((outcome, gradient))
        except StopIteration as stop:
            self.stop_reason = str(stop.value)
        else:
            if self.purse.left <= 0:
                self.stop_reason = "budget"


def search_cells(
    evaluator: Evaluator,
    cells: Sequence[Cell],
    gradient: Tensor,
    clean: Clean,
    settings: SearchSettings,
    stop_when: StopTest | None = None,
) -> Iterator[CellResult]:
    """Yield the result of every cell of one scope, in order.

    gradient: [k], the gradient over all data at w; all zeros where it counts as zero, and then the search
    starts from the worst random corruption. Cells run side by side, so that they share clean passes.
    Kind: every measured figure is a lower_bound. Source: method sections 2 and 3, the re-applied closed form
    a_{j+1} = argmax over S of <a, grad L(w + a_j)>.
    """
    size = max(1, CORRUPTED_BYTES // (16 * evaluator.layout.size))
    for start in range(0, len(cells), size):
        part = cells[start : start + size]
        trials = [measure_random(evaluator, cell, clean, settings, size) for cell in part]
        forms = [compute_closed_form(gradient, cell.corruption_set) for cell in part]
        runs = [
            _prepare(cell, form.corruption, clean, settings, random, evaluator.layout.size)
            for cell, form, (_, random) in zip(part, forms, trials, strict=True)
        ]
        _run_side_by_side(evaluator, [run for run in runs if run.stop_reason is None], stop_when)
        for cell, form, run, (outcomes, random) in zip(part, forms, runs, trials, strict=True):
            yield _finish(cell, form.value, run, outcomes, random, evaluator.layout.size)


def derive_seed(seed: int, *parts: object) -> int:
    """Return a 63-bit seed that depends on all of the parts and on nothing else."""
    text = "/".join([str(seed), *map(str, parts)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def measure_random(
    evaluator: Evaluator, cell: Cell, clean: Clean, settings: SearchSettings, size: int
) -> tuple[tuple[Outcome, ...], dict[str, Candidate]]:
    """Apply and measure the cell's random trials, at most `size` at once; return all outcomes and the worst."""
    outcomes: list[Outcome] = []
    record = Record(clean)
    for start in range(0, settings.random_trials, size):
        trials = range(start, min(start + size, settings.random_trials))
        drawn = [_draw(cell, evaluator.layout.size, settings.seed, trial) for trial in trials]
        for corruption, outcome in zip(drawn, evaluator.measure(drawn), strict=True):
            outcomes.append(outcome)
            record.offer(Candidate("random", outcome, corruption))
    return tuple(outcomes), record.worst


def _draw(cell: Cell, weights: int, seed: int, trial: object) -> Tensor:
    return draw_random_corruption(weights, cell.corruption_set, derive_seed(seed, cell.scope.name, trial))


def _prepare(
    cell: Cell, start: Tensor, clean: Clean, settings: SearchSettings, random: Mapping[str, Candidate], weights: int
) -> Run:
    record, purse = Record(clean), Purse(settings.budget_passes)
    stuck = not start.any()
    if stuck:
        # The first-order maximiser of a zero gradient is no corruption at all.
        record.first_order = Outcome(clean.loss, dict(clean.metrics), 0)
        record.offer(Candidate("first_order", record.first_order, start))
        start = random["loss"].corruption if random else start
    problem = SearchProblem(
        cell.corruption_set, clean.loss, purse, lambda restart: _draw(cell, weights, settings.seed, f"restart {restart}")
    )
    run = Run(record, purse, STRATEGIES[settings.method](start, problem))
    if stuck and not random:
        run.stop_reason = "zero_gradient"
    else:
        run.begin()
    return run


def _run_side_by_side(evaluator: Evaluator, runs: Sequence[Run], stop_when: StopTest | None) -> None:
    """Run the strategies in step, so that all share the clean part of each pass."""
    while active := [run for run in runs if run.stop_reason is None and run.move is not None]:
        stepping = [run for run in active if run.affords_gradient]
        ending = [run for run in active if run not in stepping]
        if stepping:
            measured = evaluator.measure_with_gradient([run.move.corruption for run in stepping if run.move])
            for run, (outcome, gradient) in zip(stepping, measured, strict=True):
                run.take(outcome, gradient, stop_when)
        if ending:
            outcomes = evaluator.measure([run.move.corruption for run in ending if run.move])
            for run, outcome in zip(ending, outcomes, strict=True):
                run.take(outcome, None, stop_when)


def _finish(
    cell: Cell, predicted: float, run: Run, random: tuple[Outcome, ...], worst_random: Mapping[str, Candidate], weights: int
) -> CellResult:
    for candidate in worst_random.values():
        run.record.offer(candidate)
    if run.record.first_order is None or run.stop_reason is None:
        message = "the search ended without a measurement"
        raise RuntimeError(message)
    return CellResult(
        cell=cell,
        weights=weights,
        predicted=predicted,
        first_order=run.record.first_order,
        worst=run.record.worst,
        random=random,
        stop_reason=run.stop_reason,
        forward=run.purse.forward,
        backward=run.purse.backward,
    )
