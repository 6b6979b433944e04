"""The sweep: every corruption set in every scope, with its flags and its counterexamples."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from schemas.report import Finding
from schemas.request import AuditRequest, NormSet, RoundingSet
from worker.beyond import HeldOutMeter
from worker.bounds import ScopeBounds
from worker.breaking import FoundBreakingPoint, choose_set
from worker.comparability import NormalisedMeter
from worker.context import AuditContext
from worker.engine.cells import plan_cells
from worker.engine.corruption import CorruptionSet
from worker.engine.counterexample import LARGEST_BYTES, estimate_counterexample_bytes, save_counterexample
from worker.engine.flags import RaisedFlag, find_cell_flags, find_curve_flags
from worker.engine.search import Cell, CellResult, search_cells
from worker.engine.session import Evaluator
from worker.engine.upper_bounds import LossBounder
from worker.findings import build_finding
from worker.sampling import SampleMeter


@dataclass
class Sweep:
    """All cells, findings and the flags they raised, by their place in the report, and counterexample files by finding.

    sampled, held_out, normalised, bounder: what measures each finding on sampled data, beyond the data, by the normalised loss
    and from above.
    """

    sampled: SampleMeter
    held_out: HeldOutMeter
    normalised: NormalisedMeter
    bounder: LossBounder | None
    findings: dict[int, Finding] = field(default_factory=dict)
    flags: dict[int, list[RaisedFlag]] = field(default_factory=dict)
    counterexamples: dict[str, str] = field(default_factory=dict)
    worst: dict[tuple[str, CorruptionSet], tuple[float, str]] = field(default_factory=dict)
    cells: dict[int, Cell] = field(default_factory=dict)

    def list_findings(self) -> tuple[Finding, ...]:
        """Return the findings in the report's order."""
        return tuple(self.findings[place] for place in sorted(self.findings))

    def list_flags(self) -> tuple[RaisedFlag, ...]:
        """Return the flags in the order of the findings."""
        return tuple(flag for place in sorted(self.flags) for flag in self.flags[place])

    def list_missing(self) -> tuple[Cell, ...]:
        """Return the cells without a finding, in the report's order."""
        return tuple(self.cells[place] for place in sorted(self.cells.keys() - self.findings.keys()))


def choose_sets(request: AuditRequest, points: Sequence[FoundBreakingPoint]) -> list[CorruptionSet]:
    """Return the request's corruption sets, or the preset: half of each breaking point that was looked for.

    Where the limit was never crossed, half of the largest epsilon or n that was tried.
    """
    if request.sets is not None:
        return [chosen for entry in request.sets for chosen in _list_sets(entry)]
    sets = []
    for point in points:
        reach = point.result.hi if point.result.hi is not None else point.result.lo
        if reach is not None:
            sets.append(choose_set(point.asked, reach / 2))
    return list(dict.fromkeys(sets))


def _list_sets(entry: NormSet | RoundingSet) -> list[CorruptionSet]:
    if isinstance(entry, RoundingSet):
        return [CorruptionSet(math.inf, 1.0, None, entry.scale)]
    return [CorruptionSet(float(entry.norm), epsilon, n, entry.scale) for epsilon in entry.epsilon for n in entry.max_corrupted]


def sweep_scopes(
    context: AuditContext, sets: Sequence[CorruptionSet], scratch: Path, report_progress: Callable[[str, int, int], None]
) -> Sweep:
    """Search every set in every scope."""
    weights = context.session.program.weights
    sizes = [sum(weights[name].numel() for name in scope.tensors) for scope in context.scopes]
    plans = [plan_cells(scope, size, sets) for scope, size in zip(context.scopes, sizes, strict=True)]
    places = list(itertools.accumulate((len(cells) for cells in plans), initial=1))
    bounder = LossBounder(context.session) if context.request.theory.upper_bounds else None
    sweep = Sweep(SampleMeter(context), HeldOutMeter(context), NormalisedMeter(context), bounder)
    sweep.cells |= dict(enumerate(itertools.chain(*plans), start=1))
    # Parts first: what is found in a part counts in every scope that holds it.
    report_progress("search", 0, places[-1] - 1)
    for index in sorted(range(len(plans)), key=lambda index: len(context.scopes[index].tensors)):
        if context.job.should_stop():
            break
        _sweep_scope(context, plans[index], places[index], sweep, scratch)
        report_progress("search", len(sweep.findings), places[-1] - 1)
    return sweep


def _sweep_scope(context: AuditContext, cells: Sequence[Cell], place: int, sweep: Sweep, scratch: Path) -> None:
    scope = cells[0].scope
    evaluator = Evaluator(context.session, scope.tensors)
    gradient, settings = context.gradient.flatten(scope.tensors), context.settings
    flags = sweep.flags.setdefault(place, [])
    bounds = ScopeBounds(context, evaluator, scope, sweep.bounder)
    place_info = {"component": context.places.find_component(scope), "depth": context.places.find_depth(scope)}
    if context.gradient.is_zero(scope.tensors):
        flags.append(RaisedFlag("zero_gradient", scope.name, {"gradient_norm": context.gradient.compute_norm(scope.tensors)}))
        gradient, settings = torch.zeros_like(gradient), replace(settings, random_trials=max(1, settings.random_trials))
    places = {cell: place + offset for offset, cell in enumerate(cells)}
    by_place: dict[int, list[RaisedFlag]] = {}
    first_steps = []
    for result in search_cells(evaluator, cells, gradient, context.pool, settings):
        chosen, number = result.cell.corruption_set, places[result.cell]
        identity = f"f-{number:04d}"
        norm = evaluator.layout.compute_norm(chosen.norm)
        finding = build_finding(identity, result, context.clean, norm, len(context.session.dataset), settings.seed)
        sections: dict[str, Any] = {"scope": finding.scope.model_copy(update=place_info)}
        if not settings.should_stop():
            sections["held_out"] = sweep.held_out.measure(evaluator.layout, result)
            sections["normalised_loss_change"] = sweep.normalised.measure(evaluator, result)
            sections |= bounds.describe(chosen)
        elif context.population is not None and sweep.findings:
            break  # to measure it on all of the data takes too long
        finding = sweep.sampled.measure(evaluator.layout, result, finding.model_copy(update=sections))
        sweep.findings[number] = finding
        raised = find_cell_flags(result, context.clean, identity, evaluator.layout)
        by_place[number] = [*raised, *bounds.find_flags(finding)]
        first_steps.append((chosen, result.first_order))
        _keep_counterexample(context, evaluator, result, identity, sweep, scratch)
    flags += [flag for number in sorted(by_place) for flag in by_place[number]]
    flags += find_curve_flags(scope.name, first_steps, context.clean)


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
