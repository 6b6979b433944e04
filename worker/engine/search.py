"""Search: the worst corruption found in each cell of a scope, and the random corruptions beside it; method sections 2-4."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from worker.engine.corruption import CorruptionSet, compute_closed_form, draw_random_corruption
from worker.engine.scopes import Scope
from worker.engine.session import Evaluator
from worker.engine.tally import Outcome, compute_drop

CORRUPTED_BYTES = 128 * 2**20
"""Corrupted copies of a scope's weights that are held at once, so that they share one clean pass."""
SMALLEST_GAIN = 1e-3
PATIENCE = 3
"""A search has converged when this many steps in a row raised the worst loss change by less than SMALLEST_GAIN of it."""

StopTest = Callable[[Outcome], bool]


@dataclass(frozen=True)
class SearchSettings:
    """method: first_order or reapplied; budget_passes: forward and backward passes per cell."""

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
class SearchPath:
    """One cell's search on its way: the corruption to measure next, the worst so far, the passes spent."""

    cell: Cell
    clean: Clean
    settings: SearchSettings
    corruption: Tensor
    predicted: float
    step: int = 0
    forward: int = 0
    backward: int = 0
    stalled: int = 0
    stop_reason: str | None = None
    first_order: Outcome | None = None
    worst: dict[str, Candidate] = field(default_factory=dict)

    @property
    def affords_gradient(self) -> bool:
        """Whether the budget allows a gradient here and a measurement of where it leads."""
        return self.settings.method == "reapplied" and self.settings.budget_passes - self.forward - self.backward >= 3

    def offer(self, candidate: Candidate) -> bool:
        """Keep the candidate where it is the worst so far; return whether it raised the loss change by enough."""
        before = self.clean.compute_damage("loss", self.worst["loss"].outcome) if self.worst else float("-inf")
        for what in ("loss", *self.clean.metrics):
            kept = self.worst.get(what)
            damage = self.clean.compute_damage(what, candidate.outcome)
            if kept is None or damage > self.clean.compute_damage(what, kept.outcome):
                self.worst[what] = candidate
        return self.clean.compute_damage("loss", candidate.outcome) > before + SMALLEST_GAIN * abs(before)

    def take(self, outcome: Outcome, gradient: Tensor | None, stop_when: StopTest | None) -> None:
        """Record a measured corruption and decide where to go from there."""
        method = "first_order" if self.first_order is None else "reapplied"
        gained = self.offer(Candidate(method, outcome, self.corruption))
        self.first_order = self.first_order or outcome
        self.stalled = 0 if gained else self.stalled + 1
        self.forward += 1
        self.backward += gradient is not None
        self.stop_reason = self._find_stop_reason(outcome, gradient, stop_when)
        if self.stop_reason is None and gradient is not None:
            self._reapply(gradient)

    def _find_stop_reason(self, outcome: Outcome, gradient: Tensor | None, stop_when: StopTest | None) -> str | None:
        if outcome.non_finite:
            return "non_finite"
        if stop_when is not None and stop_when(outcome):
            return "converged"
        if gradient is None:
            return "single_step" if self.settings.method == "first_order" else "budget"
        return "converged" if self.stalled >= PATIENCE or not torch.isfinite(gradient).all() else None

    def _reapply(self, gradient: Tensor) -> None:
        following = compute_closed_form(gradient, self.cell.corruption_set).corruption
        if torch.equal(following, self.corruption) or not following.any():
            self.stop_reason = "converged"
        self.corruption = following


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
        trials = [measure_random(evaluator, cell, settings, size) for cell in part]
        paths = [_start(cell, gradient, clean, settings, random) for cell, random in zip(part, trials, strict=True)]
        _run_paths(evaluator, paths, size, stop_when)
        for path, random in zip(paths, trials, strict=True):
            yield _finish(path, random, evaluator.layout.size)


def derive_seed(seed: int, *parts: object) -> int:
    """Return a 63-bit seed that depends on all of the parts and on nothing else."""
    text = "/".join([str(seed), *map(str, parts)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def measure_random(evaluator: Evaluator, cell: Cell, settings: SearchSettings, size: int) -> list[Candidate]:
    """Apply and measure the cell's random trials, at most `size` at once."""
    candidates: list[Candidate] = []
    for start in range(0, settings.random_trials, size):
        seeds = [
            derive_seed(settings.seed, cell.scope.name, trial)
            for trial in range(start, min(start + size, settings.random_trials))
        ]
        drawn = [draw_random_corruption(evaluator.layout.size, cell.corruption_set, seed) for seed in seeds]
        outcomes = evaluator.measure(drawn)
        candidates += [Candidate("random", outcome, corruption) for outcome, corruption in zip(outcomes, drawn, strict=True)]
    return candidates


def _start(cell: Cell, gradient: Tensor, clean: Clean, settings: SearchSettings, random: Sequence[Candidate]) -> SearchPath:
    corruption, predicted = compute_closed_form(gradient, cell.corruption_set)
    path = SearchPath(cell, clean, settings, corruption, predicted)
    if predicted == 0.0:
        unmoved = Outcome(clean.loss, dict(clean.metrics), 0)
        path.offer(Candidate("first_order", unmoved, corruption))
        path.first_order = unmoved
        if random:
            path.corruption = max(random, key=lambda candidate: clean.compute_damage("loss", candidate.outcome)).corruption
        else:
            path.stop_reason = "zero_gradient"
    return path


def _run_paths(evaluator: Evaluator, paths: Sequence[SearchPath], size: int, stop_when: StopTest | None) -> None:
    while active := [path for path in paths if path.stop_reason is None][:size]:
        stepping = [path for path in active if path.affords_gradient]
        ending = [path for path in active if not path.affords_gradient]
        if stepping:
            measured = evaluator.measure_with_gradient([path.corruption for path in stepping])
            for path, (outcome, gradient) in zip(stepping, measured, strict=True):
                path.take(outcome, gradient, stop_when)
        if ending:
            for path, outcome in zip(ending, evaluator.measure([path.corruption for path in ending]), strict=True):
                path.take(outcome, None, stop_when)


def _finish(path: SearchPath, random: Sequence[Candidate], weights: int) -> CellResult:
    for candidate in random:
        path.offer(candidate)
    if path.first_order is None or path.stop_reason is None:
        message = "the search ended without a measurement"
        raise RuntimeError(message)
    return CellResult(
        cell=path.cell,
        weights=weights,
        predicted=path.predicted,
        first_order=path.first_order,
        worst=path.worst,
        random=tuple(candidate.outcome for candidate in random),
        stop_reason=path.stop_reason,
        forward=path.forward,
        backward=path.backward,
    )
