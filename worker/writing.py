"""Write what was measured in the contract's form."""

from collections.abc import Sequence
from typing import Any, cast

import onnxruntime
import torch

from schemas import report
from schemas.bounds import BestOf, Theory
from worker.beyond import show_interval
from worker.breaking import FoundBreakingPoint, choose_set
from worker.comparability import list_comparisons
from worker.context import AuditContext
from worker.engine.flags import RaisedFlag
from worker.engine.population import Population
from worker.engine.session import Session
from worker.engine.theory import compute_random_theory
from worker.findings import build_rankings, describe_set
from worker.sweep import Sweep


def write_measurement(
    context: AuditContext,
    sweep: Sweep,
    points: Sequence[FoundBreakingPoint],
    flips: tuple[report.BitFlips, ...],
    flags: Sequence[RaisedFlag],
) -> report.Measurement:
    """Return everything the child measured, as the supervisor will check it."""
    program, held_out = context.session.program, context.held_out
    return report.Measurement(
        format=cast("Any", program.format),
        producer=program.producer,
        opset=program.opset,
        **describe_data(context.session, context.population),
        coverage=build_coverage(context),
        clean=sweep.sampled.describe_clean().model_copy(update={"normalised_loss": sweep.normalised.clean}),
        findings=sweep.list_findings(),
        comparability=list_comparisons(sweep.list_findings(), context.request.objective.loss),
        ranking=build_rankings(sweep.list_findings()),
        breaking_points=tuple(_build_breaking_point(point) for point in points if point.result.evaluations),
        bit_flips=flips,
        theory=_build_theory(context),
        flags=tuple(build_flag(flag) for flag in flags),
        held_out_examples=None if held_out is None else len(held_out.dataset),
        held_out_labels=None if held_out is None else held_out.labels_counted,
        counterexamples=sweep.counterexamples,
        environment=_build_environment(context),
    )


def describe_data(session: Session, population: Population | None) -> dict[str, Any]:
    """Return how large the data is, and how much of it the search sees where it is sampled."""
    searched, labels = len(session.dataset), session.labels_counted
    if population is None:
        return {"examples": searched, "labels_counted": labels, "search_examples": None}
    return {"examples": len(population), "labels_counted": population.labels, "search_examples": searched}


def build_coverage(context: AuditContext) -> report.Coverage:
    """Return which weights the figures speak of, and why not of the others."""
    weights = context.session.program.weights
    unreached = [name for name in weights if name not in context.audited]
    skipped = [report.Skipped(name=name, weights=weights[name].numel(), reason="no_gradient_path") for name in unreached]
    skipped += [
        report.Skipped(name=entry.name, weights=entry.weights, reason=cast("report.SkipReason", entry.reason))
        for entry in context.session.program.skipped
    ]
    return report.Coverage(
        weights_total=sum(weight.numel() for weight in weights.values()),
        weights_audited=sum(weights[name].numel() for name in {name for scope in context.scopes for name in scope.tensors}),
        tensors_total=len(weights),
        tensors_audited=len({name for scope in context.scopes for name in scope.tensors}),
        skipped=tuple(skipped),
    )


def _build_breaking_point(point: FoundBreakingPoint) -> report.BreakingPoint:
    asked, result = point.asked, point.result
    chosen = {name: value for name, value in describe_set(choose_set(asked, 1.0)).items() if name != asked.along}
    return report.BreakingPoint(
        limit=asked.limit.model_dump(mode="json", exclude_none=True),
        along=asked.along,
        scope=asked.scope,
        set=chosen | {"range": list(asked.range)},
        reached=result.hi is not None,
        bracket=report.Bracket(lo=result.lo, hi=result.hi),
        observed=result.observed,
        evaluations=result.evaluations,
        passes=report.Passes(forward=result.forward, backward=result.backward),
        interval=None if result.interval is None else show_interval(result.interval),
        lo_interval=None if result.lo_interval is None else show_interval(result.lo_interval),
        stop_reason="deadline" if result.cut_off else "converged",
    )


def _build_theory(context: AuditContext) -> Theory | None:
    weights = sum(context.session.program.weights[name].numel() for name in context.audited)
    theory = compute_random_theory(weights, context.gradient.compute_norm(context.audited))
    best = tuple(BestOf(trials=trials, median_eta=eta) for trials, eta in theory.best_of.items())
    return Theory(
        scope="model",
        weights=theory.weights,
        gradient_norm=theory.gradient_norm,
        expected_eta=theory.expected_eta,
        expected_eta_squared=theory.expected_eta_squared,
        best_of=best,
        log10_trials_for_half=theory.log10_trials_for_half,
        probability=theory.probability,
    )


def build_flag(flag: RaisedFlag) -> report.Flag:
    """Return a doubt in the contract's form."""
    return report.Flag(
        code=flag.code,
        severity=cast("report.Severity", flag.severity),
        scope=flag.scope,
        evidence=flag.evidence,
        advice=flag.advice,
    )


def _build_environment(context: AuditContext) -> report.Environment:
    return report.Environment(
        device=context.job.device,
        threads=context.job.threads,
        micro_batch=context.session.batch_size,
        torch=torch.__version__,
        onnxruntime=onnxruntime.__version__,
        parity=context.parity,
        sandbox={},  # the supervisor fills it in: a child cannot vouch for its own confinement
        deterministic=True,
    )
