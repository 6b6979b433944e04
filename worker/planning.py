"""Plan an audit: open, admit and refuse as an audit does, count the passes that it would spend, and time one micro-batch."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import torch

from schemas import plan
from schemas.errors import UnsupportedOperator
from schemas.problem import build_problem
from schemas.report import Passes as ShownPasses
from schemas.request import BreakingPointRequest
from worker.audit import AuditInput
from worker.beyond import count_worst_passes
from worker.breaking import FoundBreakingPoint, choose_breaking_points, choose_set, find_range
from worker.context import AuditContext, build_context
from worker.engine.bits import count_most_flip_passes
from worker.engine.breaking_point import SHARE_SPENT, BreakingPointResult, count_evaluations
from worker.engine.cells import plan_cells
from worker.engine.corruption import LONG, CorruptionSet
from worker.engine.gradient import GRADIENT_PASSES
from worker.engine.memory import DIRECTIONS, measure_example
from worker.engine.models.program import Program
from worker.engine.opening import open_session
from worker.engine.passes import Passes
from worker.engine.record import POOL_BYTES
from worker.engine.scopes import Scope
from worker.engine.search import Cell
from worker.engine.session import BOUNDARY_BYTES, CORRUPTED_BYTES, SHARED_BYTES, Session
from worker.engine.smoothness import count_most_lanczos_passes
from worker.engine.strategies import count_most_passes
from worker.engine.timing import PassTimes, Stopwatch
from worker.engine.upper_bounds import BOUND_PASSES
from worker.inspecting import count_supported, list_missing
from worker.phases import ReportProgress
from worker.places import check_places, find_flipped, find_point_scopes
from worker.sources import build_source
from worker.sweep import choose_sets
from worker.writing import build_coverage, build_flag, describe_data

TIMED_SCOPES = 4
"""Scopes of one kind that are timed, evenly spaced; the others of the kind count as their mean."""
WHOLE = CorruptionSet(2.0, 1.0)
STEP_OF_PRODUCT = 2.0
"""A product with the Hessian takes about as long as this many steps."""


@dataclass(frozen=True)
class Part:
    """A share of the work: what it spends at most, how long one of its passes takes, and which share of it is expected."""

    work: plan.PlannedWork
    scope: str
    count: int
    passes: Passes
    times: PassTimes
    examples: int
    share: float = 1.0

    @property
    def most_seconds(self) -> float:
        """The time of all passes: a backward pass comes with a forward pass, as a step."""
        return self.passes.backward * self.times.step + (self.passes.forward - self.passes.backward) * self.times.forward

    def show(self) -> plan.PlannedPart:
        """Return the part in the contract's form."""
        passes = ShownPasses(forward=self.passes.forward, backward=self.passes.backward)
        seconds = self.share * self.most_seconds
        return plan.PlannedPart(
            work=self.work, scope=self.scope, count=self.count, passes=passes, examples=self.examples, seconds=seconds
        )


def plan_audit(
    job: AuditInput, report_progress: ReportProgress, clock: Callable[[], float] = time.perf_counter
) -> plan.PlannedAudit | plan.UnsupportedFigures:
    """Return what the audit would cost, or which operators of the model are in its way and how far it could go without them.

    What else cannot be done is refused as the audit would be; FaultlineError names every reason.
    """
    try:
        return count_audit(job, report_progress, clock)
    except UnsupportedOperator as error:
        return describe_unsupported(error)


def describe_unsupported(error: UnsupportedOperator) -> plan.UnsupportedFigures:
    """Return what is known of a model with operators outside the tables, and everything that is in the way of its audit."""
    return plan.UnsupportedFigures(
        supported=False,
        operators=list_missing(error.faults),
        coverage=count_supported(error.partial) if isinstance(error.partial, Program) else None,
        faults=build_problem(error).errors,
    )


def count_audit(job: AuditInput, report_progress: ReportProgress, clock: Callable[[], float]) -> plan.PlannedAudit:
    """Return what the audit would cost; FaultlineError names every reason why it cannot be done."""
    report_progress("loading", 0, 1)
    started = clock()
    opened = open_session(build_source(job), partial(check_places, job.request))
    opening_s = clock() - started
    stopwatch = Stopwatch(opened.session, clock)
    # The first micro-batch tells what is reached and what can be audited, as the whole of the data does in the audit.
    context = build_context(job, replace(opened, session=stopwatch.trial))
    planner = Planner(context, opened.session, stopwatch, report_progress)
    parts = list(planner.list_parts())
    total = sum((part.passes for part in parts), Passes())
    session, held_out = opened.session, opened.held_out
    return plan.PlannedAudit(
        supported=True,
        format=cast("Any", session.program.format),
        producer=session.program.producer,
        opset=session.program.opset,
        **describe_data(session, opened.population),
        held_out_examples=None if held_out is None else len(held_out.dataset),
        held_out_labels=None if held_out is None else held_out.labels_counted,
        coverage=build_coverage(context),
        scopes=planner.show_scopes(),
        cells=planner.cells,
        passes=ShownPasses(forward=total.forward, backward=total.backward),
        parts=tuple(part.show() for part in parts),
        memory=planner.estimate_memory(),
        seconds=plan.PlannedSeconds(
            forward=planner.whole.forward_batch,
            step=planner.whole.step_batch,
            total=opening_s + sum(part.share * part.most_seconds for part in parts),
            at_most=opening_s + sum(part.most_seconds for part in parts),
        ),
        parity=context.parity,
        flags=tuple(build_flag(flag) for flag in context.flags),
    )


class Planner:
    """Counts the parts of one audit. Every count is made by the function beside the code that spends the passes."""

    def __init__(self, context: AuditContext, session: Session, stopwatch: Stopwatch, report_progress: ReportProgress) -> None:
        self._context, self._session, self._stopwatch = context, session, stopwatch
        self._report_progress = report_progress
        self._examples = len(session.dataset)
        self._points = [self._foresee(point) for point in choose_breaking_points(context)]
        self.whole = self._time(Scope("model", "model", context.audited), WHOLE)
        plain = stopwatch.time_plain()
        self._plain = PassTimes(plain, self.whole.step)
        sets = choose_sets(context.request, self._points)
        self._sweep = [(scope, plan_cells(scope, self._count(scope), sets)) for scope in context.scopes]

    @property
    def cells(self) -> int:
        """How many findings the report would have."""
        return sum(len(cells) for _, cells in self._sweep)

    def show_scopes(self) -> tuple[plan.PlannedScopes, ...]:
        """Return the scopes by kind."""
        kinds = dict.fromkeys(scope.kind for scope, _ in self._sweep)
        grouped = {kind: [(scope, cells) for scope, cells in self._sweep if scope.kind == kind] for kind in kinds}
        return tuple(
            plan.PlannedScopes(
                kind=cast("Any", kind),
                scopes=len(group),
                weights=sum(self._count(scope) for scope, _ in group),
                cells=sum(len(cells) for _, cells in group),
            )
            for kind, group in grouped.items()
        )

    def list_parts(self) -> Iterator[Part]:
        """Yield every part of the work."""
        request, population = self._context.request, self._context.population
        if self._session.objective.labels_by_model:
            examples = self._examples if population is None else len(population)
            yield Part("labels", "model", 1, Passes(1, 0), self._time_plain(examples), examples)
        yield Part("gradient", "model", 1, GRADIENT_PASSES, self.whole, self._examples)
        yield from self._plan_breaking_points()
        yield from self._plan_search()
        if request.theory.upper_bounds and self.cells and population is None:
            yield Part("upper_bounds", "all", self.cells, BOUND_PASSES * self.cells, self._plain, self._examples)
        if request.theory.smoothness and self._sweep:
            counted = [count_most_lanczos_passes(self._count(scope)) for scope, _ in self._sweep]
            # Two backward passes per product: as many steps as products, each of twice the length.
            times = PassTimes(0.0, STEP_OF_PRODUCT * self.whole.step / 2)
            yield Part("smoothness", "all", len(counted), sum(counted, Passes()), times, self._examples)
        yield from self._plan_flips()
        if self._drawn is not None:
            yield self._plan_worst("sampled", self._drawn)
        if self._context.held_out is not None:
            yield self._plan_worst("held_out", len(self._context.held_out.dataset))

    @property
    def _drawn(self) -> int | None:
        """How many examples are measured at most where the data is sampled."""
        population = self._context.population
        if population is None:
            return None
        return population.sample if self._context.request.precision is None else len(population)

    def _plan_worst(self, work: plan.PlannedWork, examples: int) -> Part:
        """Return what it takes to measure the worst corruptions on other examples than those of the search."""
        passes = count_worst_passes(self.cells, len(self._session.objective.metrics))
        return Part(work, "all", self.cells, passes, self._time_plain(examples), examples)

    def _time_plain(self, examples: int) -> PassTimes:
        return PassTimes(self._plain.forward * examples / self._examples, 0.0)

    def _foresee(self, point: BreakingPointRequest) -> FoundBreakingPoint:
        """Return a breaking point in the middle of the range that is searched; the preset's sets follow from it."""
        context = self._context
        scope = find_point_scopes(context.request, context.session.program, context.audited, context.scopes)[point.scope]
        low, high = find_range(point, self._count(scope))
        probes = count_evaluations(low, high, whole=point.along == "max_corrupted")
        return FoundBreakingPoint(point, BreakingPointResult(low, math.sqrt(low * high), None, probes, 0, 0))

    def _plan_breaking_points(self) -> Iterator[Part]:
        context, search = self._context, self._context.settings
        known = find_point_scopes(context.request, context.session.program, context.audited, context.scopes)
        for found in self._points:
            chosen, probes = choose_set(found.asked, found.result.lo or 1.0), found.result.evaluations
            passes = count_most_passes(search.method, search.budget_passes) * probes
            times = self._time(known[found.asked.scope], chosen)
            yield Part("breaking_points", found.asked.scope, probes, passes, times, self._examples, SHARE_SPENT)
            if self._drawn is not None:
                plain = self._time_plain(self._drawn)
                yield Part("sampled", found.asked.scope, probes, Passes(probes, 0), plain, self._drawn)

    def _plan_search(self) -> Iterator[Part]:
        search = self._context.settings
        most = count_most_passes(search.method, search.budget_passes)
        for kind in dict.fromkeys(scope.kind for scope, _ in self._sweep):
            group = [(scope, cells) for scope, cells in self._sweep if scope.kind == kind]
            count = sum(len(cells) for _, cells in group)
            times = self._time_some([(scope, cells) for scope, cells in group if cells])
            yield Part("search", kind, count, most * count, times, self._examples)
            if search.random_trials:
                yield Part("random_trials", kind, count, Passes(search.random_trials, 0) * count, times, self._examples)

    def _plan_flips(self) -> Iterator[Part]:
        context = self._context
        flipped = find_flipped(context.request, context.session.program, context.audited)
        for asked, names in zip(context.request.bit_flips, flipped, strict=True):
            times = self._time(Scope("named", asked.match, names), WHOLE)
            interpreted = PassTimes(min(self._plain.forward, times.step), times.step)
            yield Part("bit_flips", asked.match, 1, count_most_flip_passes(asked.counts), interpreted, self._examples)
            if asked.random_trials:
                yield Part("random_flips", asked.match, 1, Passes(asked.random_trials, 0), interpreted, self._examples)

    def _time_some(self, group: Sequence[tuple[Scope, Sequence[Cell]]]) -> PassTimes:
        places = sorted({round(index * (len(group) - 1) / max(1, TIMED_SCOPES - 1)) for index in range(TIMED_SCOPES)})
        chosen = [group[place] for place in places if place < len(group)]
        found = [self._time(scope, cells[0].corruption_set) for scope, cells in chosen]
        return PassTimes(sum(times.forward for times in found) / len(found), sum(times.step for times in found) / len(found))

    def _time(self, scope: Scope, chosen: CorruptionSet) -> PassTimes:
        self._report_progress("timing", 0, 1)
        return self._stopwatch.time_scope(scope.tensors, lambda evaluator: evaluator.layout.build_region(chosen))

    def _count(self, scope: Scope) -> int:
        weights = self._context.session.program.weights
        return sum(weights[name].numel() for name in scope.tensors)

    def estimate_memory(self) -> plan.PlannedMemory:
        """Return what the audit would hold at once."""
        program, micro_batch = self._session.program, self._session.batch_size
        tensors = [*program.weights.values(), *(value for value in program.constants.values() if isinstance(value, torch.Tensor))]
        weights, gradient = sum(tensor.nbytes for tensor in tensors), sum(tensor.nbytes for tensor in program.weights.values())
        one = measure_example(program, self._session.dataset)
        kept = min(SHARED_BYTES + BOUNDARY_BYTES, one * self._examples)
        largest = max((self._count(scope) for scope, _ in self._sweep), default=0)
        # A corruption, or the gradient that it follows from, comes with the corrupted weights and their gradient; the pool keeps
        # a few of every cell, long ones in files.
        short = [(self._count(scope), len(cells)) for scope, cells in self._sweep if self._count(scope) <= LONG]
        found = sum(4 * count * cells for count, cells in short) * (1 + len(self._session.objective.metrics))
        search = max(min(CORRUPTED_BYTES, 16 * largest * max((len(c) for _, c in self._sweep), default=0)), 16 * largest)
        search += min(POOL_BYTES, found)
        return plan.PlannedMemory(
            weights_bytes=weights,
            gradient_bytes=gradient,
            activations_bytes=one,
            micro_batch=micro_batch,
            kept_bytes=kept,
            search_bytes=search,
            total_bytes=weights + gradient + DIRECTIONS * micro_batch * one + kept + search,
        )
