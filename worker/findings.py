"""From the engine's results to the report's sections: pure functions."""

import math
import statistics
from collections.abc import Sequence
from typing import Any, cast

from schemas.base import Norm, Scale
from schemas.ranking import Ranking, RankingEntry
from schemas.report import (
    Finding,
    FirstOrder,
    FirstOrderMetric,
    Measured,
    MeasuredMetric,
    Method,
    NonFinite,
    Passes,
    Predicted,
    RandomLossChange,
    RandomMetric,
    RandomTrials,
    ScopeInfo,
    SetInfo,
    StopReason,
)
from worker.engine.corruption import CorruptionSet
from worker.engine.record import Candidate, Clean
from worker.engine.search import CellResult
from worker.engine.tally import Outcome, compute_drop


def show_norm(norm: float) -> Norm:
    """Return p as the contract writes it."""
    return "inf" if math.isinf(norm) else norm


def describe_set(corruption_set: CorruptionSet) -> dict[str, Any]:
    """Return the fields that name a corruption set."""
    return {
        "norm": show_norm(corruption_set.norm),
        "epsilon": corruption_set.epsilon,
        "max_corrupted": corruption_set.max_corrupted,
        "scale": corruption_set.scale,
    }


def build_finding(identity: str, result: CellResult, clean: Clean, weight_norm: float, examples: int, seed: int) -> Finding:
    """Return the report's finding for one cell. `weight_norm` is the scope's p-norm."""
    scope, asked = result.cell.scope, result.cell.asked
    chosen = result.cell.corruption_set
    corrupted, is_absolute = result.corrupted, chosen.scale == "absolute"
    return Finding(
        id=identity,
        scope=ScopeInfo(kind=cast("Any", scope.kind), name=scope.name, weights=result.weights),
        set=SetInfo(
            norm=show_norm(chosen.norm),
            epsilon=chosen.epsilon,
            max_corrupted=asked[0],
            also_asked=asked[1:],
            weights_corrupted=corrupted,
            scale=cast("Scale", chosen.scale),
            zero_scale=result.weights - result.movable,
            change_per_weight=chosen.epsilon * corrupted ** (-1 / chosen.norm) if is_absolute else None,
            relative_epsilon=chosen.epsilon / weight_norm if weight_norm and is_absolute else None,
        ),
        predicted=Predicted(loss_change=result.predicted, kind="estimate"),
        first_order=FirstOrder(
            loss_change=_change(result.first_order, clean),
            kind="lower_bound",
            metrics={
                name: FirstOrderMetric(value=value, drop=compute_drop(name, clean.metrics[name], value))
                for name, value in result.first_order.metrics.items()
            },
            non_finite=_non_finite(result.first_order),
        ),
        measured=_build_measured(result, clean, examples),
        random=_build_random(result.random, clean, seed) if result.random else None,
        stop_reason=cast("StopReason", result.stop_reason),
        passes=Passes(forward=result.forward, backward=result.backward),
    )


def _build_measured(result: CellResult, clean: Clean, examples: int) -> Measured:
    worst = result.worst["loss"]
    return Measured(
        loss_change=_change(worst.outcome, clean),
        interval=None,
        kind="lower_bound",
        method=cast("Method", worst.method),
        metrics={name: _build_metric(name, result.worst[name], clean) for name in clean.metrics},
        examples=examples,
        non_finite=_non_finite(worst.outcome),
    )


def _build_metric(name: str, candidate: Candidate, clean: Clean) -> MeasuredMetric:
    value = candidate.outcome.metrics[name]
    drop = compute_drop(name, clean.metrics[name], value)
    return MeasuredMetric(value=value, drop=drop, interval=None, method=cast("Method", candidate.method))


def _change(outcome: Outcome, clean: Clean) -> float | None:
    return None if outcome.loss is None else outcome.loss - clean.loss


def _non_finite(outcome: Outcome) -> NonFinite | None:
    return NonFinite(examples=outcome.non_finite) if outcome.non_finite else None


def _build_random(outcomes: Sequence[Outcome], clean: Clean, seed: int) -> RandomTrials:
    changes = [outcome.loss - clean.loss for outcome in outcomes if outcome.loss is not None]
    return RandomTrials(
        trials=len(outcomes),
        seed=seed,
        non_finite_trials=len(outcomes) - len(changes),
        loss_change=RandomLossChange(
            mean=statistics.fmean(changes) if changes else None,
            std=statistics.stdev(changes) if len(changes) > 1 else None,
            max=max(changes, default=None),
        ),
        metrics={name: _summarise_metric(name, outcomes, clean) for name in clean.metrics},
    )


def _summarise_metric(name: str, outcomes: Sequence[Outcome], clean: Clean) -> RandomMetric:
    values = [value for outcome in outcomes if (value := outcome.metrics[name]) is not None]
    worst = max(values, key=lambda value: clean.compute_damage(name, Outcome(None, {name: value}, 0)), default=None)
    return RandomMetric(worst=worst, mean=statistics.fmean(values) if values else None)


def build_rankings(findings: Sequence[Finding]) -> tuple[Ranking, ...]:
    """Return, per kind of scope and set, the scopes with the most vulnerable first; non-finite damage ranks highest."""
    groups: dict[tuple[str, str, float, int | None, str], list[Finding]] = {}
    for finding in findings:
        if finding.scope.kind.startswith("per_"):
            for asked in (finding.set.max_corrupted, *finding.set.also_asked):
                given = finding.set
                groups.setdefault((finding.scope.kind, str(given.norm), given.epsilon, asked, given.scale), []).append(finding)
    return tuple(
        Ranking(
            kind=cast("Any", kind),
            set={"norm": members[0].set.norm, "epsilon": epsilon, "max_corrupted": asked, "scale": scale},
            by="loss_change",
            scopes=tuple(
                RankingEntry(scope=finding.scope.name, finding=finding.id, loss_change=finding.measured.loss_change)
                for finding in sorted(members, key=_rank)
            ),
        )
        for (kind, _, epsilon, asked, scale), members in groups.items()
    )


def _rank(finding: Finding) -> float:
    change = finding.measured.loss_change
    return -math.inf if change is None else -change
