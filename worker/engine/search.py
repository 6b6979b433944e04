"""Search: the worst corruption found in each cell of a scope, and the random corruptions beside it; method sections 2-4."""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard

import torch
from torch import Tensor

from worker.engine.corruption import ClosedForm, Corruption, CorruptionSet, find_dtype, measure_norm, round_inwards
from worker.engine.record import Candidate, Clean, Pool, Record
from worker.engine.regions import Ball, Region
from worker.engine.scopes import Scope
from worker.engine.session import CORRUPTED_BYTES, Evaluator
from worker.engine.smoothness import LANCZOS_STEPS, PRODUCT_PASSES, draw_start, make_hessian_product, run_lanczos, solve_ball
from worker.engine.strategies import STRATEGIES, Move, Purse, SearchProblem, Strategy
from worker.engine.tally import Outcome

CURVED = frozenset({"second_order", "auto"})
"""The methods that can start where the gradient is zero."""

StopTest = Callable[[Outcome], bool]


@dataclass(frozen=True)
class SearchSettings:
    """method: a key of STRATEGIES; budget_passes: forward and backward passes per cell.

    should_stop: asked before every pass; once it says yes, cells end with what they have measured, and further ones not begun.
    """

    method: str = "auto"
    budget_passes: int = 64
    random_trials: int = 20
    seed: int = 0
    should_stop: Callable[[], bool] = lambda: False


@dataclass(frozen=True)
class Cell:
    """One scope and one corruption set; `asked` are the max_corrupted values that come to the same set."""

    scope: Scope
    corruption_set: CorruptionSet
    asked: tuple[int | None, ...]


@dataclass(frozen=True)
class CellResult:
    """What the search found in a cell. Every outcome was measured, so each is a lower bound.

    weights: k; movable: those whose scale is not zero; corrupted: how many the one-step corruption changes; one_step: that
    corruption.
    trace: the largest damage to the loss after each measurement of the search.
    """

    cell: Cell
    weights: int
    movable: int
    corrupted: int
    predicted: float
    one_step: Corruption
    first_order: Outcome
    worst: dict[str, Candidate]
    """The worst for "loss" and for each metric, over everything measured."""
    random: tuple[Outcome, ...]
    stop_reason: str
    forward: int
    backward: int
    trace: tuple[float, ...] = ()


@dataclass
class Run:
    """One cell's strategy on its way."""

    cell: Cell
    region: Region
    form: ClosedForm
    record: Record
    purse: Purse
    strategy: Strategy
    random: tuple[Outcome, ...]
    worst_random: Mapping[str, Candidate]
    move: Move | None = None
    stop_reason: str | None = None

    def begin(self) -> None:
        """Ask the strategy for its first corruption."""
        self.move = next(self.strategy)

    @property
    def gradient_of(self) -> str | None:
        """Of what a gradient is wanted here, if the budget allows a step and a measurement of where it leads."""
        return self.move.gradient_of if self.purse.steps_left > 0 and self.move is not None else None

    def take(self, outcome: Outcome, gradient: Tensor | None, stop_when: StopTest | None) -> None:
        """Record what was measured and ask the strategy where to go from there."""
        move = self.move
        if move is None:
            message = "there is no corruption to measure"
            raise RuntimeError(message)
        self.record.take(Candidate(move.method, outcome, move.corruption))
        self.purse.forward += 1
        self.purse.backward += gradient is not None
        if outcome.non_finite:
            self.stop_reason = "non_finite"
        elif (stop_when is not None and stop_when(outcome)) or (
            gradient is not None and not math.isfinite(measure_norm(gradient, math.inf))
        ):
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

    def finish(self) -> CellResult:
        """Return what was found."""
        if self.record.first_order is None or self.stop_reason is None:
            message = "the search ended without a measurement"
            raise RuntimeError(message)
        return CellResult(
            cell=self.cell,
            weights=self.record.worst["loss"].corruption.numel(),
            movable=self.region.movable,
            corrupted=self.region.corrupted,
            predicted=self.form.value,
            one_step=self.form.corruption,
            first_order=self.record.first_order,
            worst=self.record.worst,
            random=self.random,
            stop_reason=self.stop_reason,
            forward=self.purse.forward,
            backward=self.purse.backward,
            trace=tuple(self.record.trace),
        )


def search_cells(
    evaluator: Evaluator,
    cells: Sequence[Cell],
    gradient: Tensor,
    pool: Pool,
    settings: SearchSettings,
    stop_when: StopTest | None = None,
) -> Iterator[CellResult]:
    """Yield the result of every cell of one scope, the smaller sets first, and add what was found to the pool.

    gradient: [k], the gradient over all data at w; all zeros where it counts as zero, and then the search
    starts from the worst random corruption. As many cells as memory allows run side by side, so that they share clean passes;
    what is found in one counts in all that allow it, and these come with it or later.
    A cell that had to stop before its first measurement has no result.
    Kind: every measured figure is a lower_bound. Source: method sections 2 and 3.
    """
    order = sorted(cells, key=lambda cell: _measure_size(cell.corruption_set))
    size = max(1, CORRUPTED_BYTES // (16 * evaluator.layout.size))
    for start in range(0, len(order), size):
        begun = (cell for cell in order[start : start + size] if not settings.should_stop())
        prepared = [_prepare(evaluator, cell, gradient, pool, settings, size) for cell in begun]
        _run_side_by_side(evaluator, [run for run in prepared if run.stop_reason is None], stop_when, settings.should_stop)
        runs = [run for run in prepared if run.record.first_order is not None]
        for run in runs:
            for candidate in run.worst_random.values():
                run.record.offer(candidate)
            pool.add(evaluator.layout, run.record.worst.values())
        for run in runs:
            for candidate in pool.find(evaluator.layout, run.cell.corruption_set, run.record):
                run.record.offer(candidate)
            run.record.offer_nothing()
            yield run.finish()


def _measure_size(corruption_set: CorruptionSet) -> tuple[float, float, float]:
    return (corruption_set.epsilon, corruption_set.max_corrupted or math.inf, corruption_set.norm)


def derive_seed(seed: int, *parts: object) -> int:
    """Return a 63-bit seed that depends on all of the parts and on nothing else."""
    text = "/".join([str(seed), *map(str, parts)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def _measure_random(
    evaluator: Evaluator, cell: Cell, region: Region, clean: Clean, settings: SearchSettings, size: int
) -> tuple[tuple[Outcome, ...], dict[str, Candidate]]:
    """Apply and measure the cell's random trials, at most `size` at once; return all outcomes and the worst."""
    outcomes: list[Outcome] = []
    record = Record(clean)
    for start in range(0, settings.random_trials, size):
        if settings.should_stop():
            break
        trials = range(start, min(start + size, settings.random_trials))
        drawn = [region.draw(derive_seed(settings.seed, cell.scope.name, trial)) for trial in trials]
        for corruption, outcome in zip(drawn, evaluator.measure(drawn), strict=True):
            outcomes.append(outcome)
            record.offer(Candidate("random", outcome, corruption))
    return tuple(outcomes), record.worst


def _prepare(evaluator: Evaluator, cell: Cell, gradient: Tensor, pool: Pool, settings: SearchSettings, size: int) -> Run:
    clean, region = pool.clean, evaluator.layout.build_region(cell.corruption_set)
    random, worst_random = _measure_random(evaluator, cell, region, clean, settings, size)
    form = region.maximise(gradient)
    record, purse, start = Record(clean), Purse(settings.budget_passes), form.corruption
    stuck = not form.value
    if stuck:
        # The first-order maximiser of a zero gradient is no corruption at all.
        record.take(Candidate("first_order", Outcome(clean.loss, dict(clean.metrics), 0), start))
        start = worst_random["loss"].corruption if worst_random else start
    known = pool.find(evaluator.layout, cell.corruption_set, record)
    for candidate in known:
        record.offer(candidate)
    problem = SearchProblem(
        region=region,
        clean_loss=clean.loss,
        purse=purse,
        draw=lambda restart: region.draw(derive_seed(settings.seed, cell.scope.name, f"restart {restart}")),
        find_best=lambda: record.worst["loss"].corruption,
        has_margin="accuracy" in clean.metrics and evaluator.session.objective.has_classes,
        known=known[0].corruption if known else None,
        is_flat=stuck,
        solve_second_order=_make_second_order(evaluator, region, gradient, purse, derive_seed(settings.seed, cell.scope.name)),
    )
    strategy = STRATEGIES[settings.method](start, problem)
    run = Run(cell, region, form, record, purse, strategy, random, worst_random)
    if stuck and not worst_random and not (settings.method in CURVED and _has_second_order(region)):
        run.stop_reason = "zero_gradient"
    else:
        run.begin()
    return run


def _has_second_order(region: Region) -> TypeGuard[Ball]:
    return isinstance(region, Ball) and region.corruption_set.norm == 2 and region.corrupted == region.movable


def _make_second_order(
    evaluator: Evaluator, region: Region, gradient: Tensor, purse: Purse, seed: int
) -> Callable[[int], Tensor | None]:
    """Return how to maximise a^T g + a^T H a / 2 over the ball, by Lanczos in the coordinates a / s."""

    def solve(passes: int) -> Tensor | None:
        steps = min(LANCZOS_STEPS, passes // PRODUCT_PASSES.total)
        if steps < 2 or not _has_second_order(region):
            return None
        scale = torch.ones_like(gradient, dtype=torch.float64) if region.scale is None else region.scale
        product = make_hessian_product(evaluator.session, evaluator.layout.names, torch.zeros_like(scale))
        slope = gradient.double() * scale
        lanczos = run_lanczos(lambda vector: scale * product(scale * vector), draw_start(slope, seed), steps)
        spent = PRODUCT_PASSES * lanczos.products
        purse.forward += spent.forward
        purse.backward += spent.backward
        best = solve_ball(lanczos, slope, region.corruption_set.epsilon).corruption[:]
        return round_inwards(scale * best, find_dtype(evaluator.layout.dtype)) if best.any() else None

    return solve


def _run_side_by_side(
    evaluator: Evaluator, runs: Sequence[Run], stop_when: StopTest | None, should_stop: Callable[[], bool]
) -> None:
    """Run the strategies in step, so that all share the clean part of each pass."""
    while active := [run for run in runs if run.stop_reason is None and run.move is not None]:
        if should_stop():
            for run in active:
                run.stop_reason = "deadline"
            return
        wanted = [run.gradient_of for run in active]
        for kind in ("loss", "margin", None):
            chosen = [run for run, of in zip(active, wanted, strict=True) if of == kind]
            corruptions = [run.move.corruption for run in chosen if run.move]
            measured = list(_measure(evaluator, corruptions, kind))
            for run in chosen:
                run.take(*measured.pop(0), stop_when)


def _measure(
    evaluator: Evaluator, corruptions: Sequence[Corruption], kind: str | None
) -> Sequence[tuple[Outcome, Tensor | None]]:
    if not corruptions:
        return []
    if kind is None:
        return [(outcome, None) for outcome in evaluator.measure(corruptions)]
    return evaluator.measure_with_gradient(corruptions, kind)
