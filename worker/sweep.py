"""The sweep: every corruption set in every scope, with its flags and its counterexamples."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from schemas.report import Finding
from schemas.request import AuditRequest
from worker.breaking import FoundBreakingPoint
from worker.context import AuditContext
from worker.engine.cells import plan_cells
from worker.engine.corruption import CorruptionSet
from worker.engine.counterexample import LARGEST_BYTES, estimate_counterexample_bytes, save_counterexample
from worker.engine.flags import RaisedFlag, find_cell_flags
from worker.engine.scopes import Scope
from worker.engine.search import Cell, CellResult, search_cells
from worker.engine.session import Evaluator
from worker.findings import build_finding


@dataclass
class Sweep:
    """Findings in order, the flags they raised, and counterexample files by finding."""

    findings: list[Finding] = field(default_factory=list)
    flags: list[RaisedFlag] = field(default_factory=list)
    counterexamples: dict[str, str] = field(default_factory=dict)
    worst: dict[tuple[str, CorruptionSet], tuple[float, str]] = field(default_factory=dict)


def choose_sets(request: AuditRequest, points: Sequence[FoundBreakingPoint]) -> list[CorruptionSet]:
    """Return the request's corruption sets, or the preset: L2 at half of the model's breaking point.

    Where the limit was never crossed, half of the largest epsilon that was tried.
    """
    if request.sets is not None:
        return [
            CorruptionSet(float(entry.norm), epsilon, n)
            for entry in request.sets
            for epsilon in entry.epsilon
            for n in entry.max_corrupted
        ]
    sets = []
    for point in points:
        reach = point.result.hi if point.result.hi is not None else point.result.lo
        if reach is not None:
            sets.append(CorruptionSet(float(point.asked.norm), reach / 2, point.asked.max_corrupted))
    return list(dict.fromkeys(sets))


def sweep_scopes(
    context: AuditContext, sets: Sequence[CorruptionSet], scratch: Path, report_progress: Callable[[str, int, int], None]
) -> Sweep:
    """Search every set in every scope."""
    sizes = [sum(context.session.program.weights[name].numel() for name in scope.tensors) for scope in context.scopes]
    plans = [plan_cells(scope, size, sets) for scope, size in zip(context.scopes, sizes, strict=True)]
    total = sum(len(cells) for cells in plans)
    sweep = Sweep()
    report_progress("search", 0, total)
    for scope, cells in zip(context.scopes, plans, strict=True):
        _sweep_scope(context, scope, cells, sweep, scratch, lambda: report_progress("search", len(sweep.findings), total))
    return sweep


def _sweep_scope(
    context: AuditContext, scope: Scope, cells: Sequence[Cell], sweep: Sweep, scratch: Path, advance: Callable[[], None]
) -> None:
    evaluator = Evaluator(context.session, scope.tensors)
    gradient, settings = context.gradient.flatten(scope.tensors), context.settings
    if context.gradient.is_zero(scope.tensors):
        evidence = {"gradient_norm": context.gradient.compute_norm(scope.tensors)}
        sweep.flags.append(RaisedFlag("zero_gradient", scope.name, evidence))
        gradient, settings = torch.zeros_like(gradient), replace(settings, random_trials=max(1, settings.random_trials))
    weights = torch.cat([context.session.program.weights[name].reshape(-1) for name in scope.tensors])
    norms: dict[float, float] = {}
    for result in search_cells(evaluator, cells, gradient, context.clean, settings):
        identity = f"f-{len(sweep.findings) + 1:04d}"
        p = result.cell.corruption_set.norm
        if p not in norms:
            norms[p] = float(torch.linalg.vector_norm(weights, p, dtype=torch.float64))
        examples = len(context.session.dataset)
        sweep.findings.append(build_finding(identity, result, context.clean, norms[p], examples, settings.seed))
        sweep.flags += find_cell_flags(result, context.clean, identity)
        _keep_counterexample(context, evaluator, result, identity, sweep, scratch)
        advance()


def _keep_counterexample(
    context: AuditContext, evaluator: Evaluator, result: CellResult, identity: str, sweep: Sweep, scratch: Path
) -> None:
    """Save the corruption when it is the worst so far among the scopes of its kind under its set."""
    key = (result.cell.scope.kind, result.cell.corruption_set)
    damage = context.clean.compute_damage("loss", result.worst["loss"].outcome)
    known = sweep.worst.get(key)
    if (known is not None and damage <= known[0]) or estimate_counterexample_bytes(result) > LARGEST_BYTES:
        return
    if known is not None:
        (scratch / sweep.counterexamples.pop(known[1])).unlink()
    sweep.worst[key] = (damage, identity)
    sweep.counterexamples[identity] = f"{identity}.npz"
    save_counterexample(scratch / f"{identity}.npz", result, evaluator.layout)
