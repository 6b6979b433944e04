"""The breaking points that a request asks for, found with the request's own search."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from schemas.limits import Limit
from schemas.request import BreakingPointRequest
from worker.context import AuditContext
from worker.engine.breaking_point import BreakingPointResult, Probe, count_evaluations, find_breaking_point
from worker.engine.corruption import CorruptionSet
from worker.engine.record import Clean
from worker.engine.scopes import Scope
from worker.engine.search import Cell, CellResult, search_cells
from worker.engine.session import Evaluator
from worker.engine.tally import Outcome
from worker.places import find_point_scopes
from worker.sampling import PointMeter


@dataclass(frozen=True)
class FoundBreakingPoint:
    """A request's breaking point and what was found."""

    asked: BreakingPointRequest
    result: BreakingPointResult


def choose_breaking_points(context: AuditContext) -> tuple[BreakingPointRequest, ...]:
    """Return the request's own, or the preset when no sets are given: a 5-point accuracy drop, else a doubled loss."""
    request = context.request
    if request.breaking_points is not None or request.sets is not None:
        return request.breaking_points or ()
    if "accuracy" in context.clean.metrics:
        return (BreakingPointRequest(limit=Limit(metric="accuracy", drop=0.05)),)
    return (BreakingPointRequest(limit=Limit(loss_change=max(context.clean.loss, 1e-6))),)


def find_breaking_points(
    context: AuditContext, report_progress: Callable[[str, int, int], None]
) -> tuple[FoundBreakingPoint, ...]:
    """Search each breaking point in turn, those left out at the deadline without evaluations; a ScopeError lists every misfit."""
    asked = choose_breaking_points(context)
    known = find_point_scopes(context.request, context.session.program, context.audited, context.scopes)
    found = []
    for index, point in enumerate(asked):
        report_progress("breaking_points", index, len(asked))
        found.append(FoundBreakingPoint(point, _find_one(context, point, known[point.scope])))
    return tuple(found)


def _find_one(context: AuditContext, point: BreakingPointRequest, scope: Scope) -> BreakingPointResult:
    what, threshold = read_limit(point.limit, context.clean)
    evaluator = Evaluator(context.session, scope.tensors)
    gradient = context.gradient.flatten(scope.tensors)
    settings = replace(context.settings, random_trials=0)
    if context.gradient.is_zero(scope.tensors):
        gradient, settings = torch.zeros_like(gradient), replace(settings, random_trials=max(1, context.settings.random_trials))

    low, high = find_range(point, evaluator.layout.size)
    whole, population = point.along == "max_corrupted", context.population
    meter = None if population is None else PointMeter(context.request, population, count_evaluations(low, high, whole=whole))

    def crosses(outcome: Outcome) -> bool:
        return context.clean.compute_damage(what, outcome) >= threshold

    def read(result: CellResult) -> Probe:
        worst, cost = result.worst[what], (result.forward, result.backward)
        observed = context.clean.compute_damage(what, worst.outcome)
        if meter is None or observed == math.inf:
            return Probe(crosses(worst.outcome), None if observed == math.inf else observed, *cost)
        answer = meter.measure(evaluator.layout.apply(worst.corruption), what, threshold)
        if answer is None:
            return Probe(crossed=True, observed=None, forward=result.forward, backward=result.backward)
        return Probe(answer.interval.lower >= threshold, answer.estimate, *cost, answer.interval)

    def probe(value: float) -> Probe | None:
        chosen = choose_set(point, value)
        cell = Cell(scope, chosen, (chosen.max_corrupted,))
        # Where the data is sampled, a corruption that just crosses on what was searched would hardly do so on the rest.
        results = [*search_cells(evaluator, [cell], gradient, context.pool, settings, crosses if meter is None else None)]
        if not results:
            return None
        found = read(results[0])
        # A search that was cut off proves a crossing, and says nothing where it has found none.
        return None if results[0].stop_reason == "deadline" and not found.crossed else found

    return find_breaking_point(probe, low, high, whole=whole)


def find_range(point: BreakingPointRequest, weights: int) -> tuple[float, float]:
    """Return where a breaking point is looked for in a scope of so many weights: an n above k means k."""
    low, high = point.range
    return (low, high) if point.along == "epsilon" else (min(int(low), weights), min(int(high), weights))


def choose_set(point: BreakingPointRequest, value: float) -> CorruptionSet:
    """Return the set with `value` for what the breaking point is looked for along."""
    if point.along == "epsilon":
        return CorruptionSet(float(point.norm), value, point.max_corrupted, point.scale)
    if point.epsilon is None:
        message = "a breaking point along max_corrupted has an epsilon"
        raise ValueError(message)
    return CorruptionSet(float(point.norm), point.epsilon, max(1, int(value)), point.scale)


def read_limit(limit: Limit, clean: Clean) -> tuple[str, float]:
    """Return what is limited ("loss" or a metric) and the damage that crosses the limit."""
    if limit.metric is None:
        return "loss", float(limit.loss_change or 0.0)
    if limit.metric not in clean.metrics:
        message = f"metric {limit.metric} was not computed"
        raise KeyError(message)
    return limit.metric, float(limit.drop or 0.0)
