"""Beyond the data: each finding's corruptions measured on held-out examples, with limits for further ones."""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, cast

from torch import Tensor

from schemas.bounds import HeldOut, HeldOutMetric, Interval
from schemas.report import Finding
from worker.context import AuditContext
from worker.engine import held_out
from worker.engine.flags import RaisedFlag
from worker.engine.held_out import ExampleFigures, measure_examples
from worker.engine.passes import Passes
from worker.engine.scopes import Layout
from worker.engine.search import CellResult
from worker.engine.statistics import interval


def count_worst_passes(cells: int, metrics: int) -> Passes:
    """Return what a meter spends at most: the clean model once, and each cell's worst for the loss and every metric."""
    return Passes(1 + cells * (1 + metrics), 0)


class HeldOutMeter:
    """Measures on the session of `evaluate_on`; without one it measures nothing."""

    def __init__(self, context: AuditContext) -> None:
        self._session, self._confidence = context.held_out, context.request.confidence

    @cached_property
    def _clean(self) -> ExampleFigures:
        return self._measure({})

    def measure(self, layout: Layout, result: CellResult) -> HeldOut | None:
        """Return what the worst corruptions of a cell do to the held-out examples."""
        if self._session is None:
            return None
        figures = {what: self._measure(layout.apply(worst.corruption)) for what, worst in result.worst.items()}
        loss = held_out.compare_losses(self._clean, figures["loss"], self._confidence)
        return HeldOut(
            examples=len(self._session.dataset),
            loss_change=loss.value,
            interval=_show(loss.interval),
            metrics={name: self._compare(name, figures[name]) for name in self._clean.shares},
        )

    @staticmethod
    def find_flags(findings: Sequence[Finding]) -> list[RaisedFlag]:
        """Return the doubts about limits, once for all findings."""
        shown = {finding.id: limits for finding in findings if (limits := _list_intervals(finding))}
        asymptotic = [identity for identity, limits in shown.items() if any(one.asymptotic for one in limits)]
        wide = [identity for identity, limits in shown.items() if any(None in {one.lower, one.upper} for one in limits)]
        return [
            RaisedFlag(code, evidence={"findings": len(named), "first": named[0]})
            for code, named in (("asymptotic_interval", asymptotic), ("interval_too_wide", wide))
            if named
        ]

    def _measure(self, parameters: Mapping[str, Tensor]) -> ExampleFigures:
        if self._session is None:
            message = "there are no held-out examples"
            raise RuntimeError(message)
        return measure_examples(self._session, parameters)

    def _compare(self, name: str, corrupted: ExampleFigures) -> HeldOutMetric:
        drop = held_out.compare_shares(name, self._clean, corrupted, self._confidence)
        value = held_out.limit_share(name, corrupted, self._confidence)
        return HeldOutMetric(
            value=value.value,
            value_interval=_show(value.interval),
            drop=drop.value,
            drop_interval=_show(drop.interval),
        )


def _list_intervals(finding: Finding) -> list[Interval]:
    """Return the limits of what the gate reads."""
    held, measured = finding.held_out, finding.measured
    given = [measured.interval, *(metric.interval for metric in measured.metrics.values())]
    return [one for one in (given if held is None else [held.interval]) if one is not None]


def _show(given: interval.Interval | None) -> Interval | None:
    return None if given is None else show_interval(given)


def show_interval(given: interval.Interval) -> Interval:
    """Return the limits as the contract has them."""
    return Interval(
        lower=given.lower if math.isfinite(given.lower) else None,
        upper=given.upper if math.isfinite(given.upper) else None,
        confidence=given.confidence,
        method=cast("Any", given.method),
        population=given.population,
        sample=given.sample,
        asymptotic=given.is_asymptotic,
    )
