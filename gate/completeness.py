"""Doubts about the report as a whole: each one forbids a pass, whatever the conditions say.

A search is complete when every corruption set that was asked for has its cells, and when the scopes of a kind that
divides the model (all but named ones) add up to all audited weights. So a finding that went missing
between the search and the gate is noticed even where a condition reads it only among others.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from gate.matching import asked_limits
from gate.wording import name_ball
from schemas.base import norm_value
from schemas.problem import clean_text
from schemas.report import Report
from schemas.request import name_rounding

DIVIDING_KINDS = frozenset({"model", "per_module", "per_tensor", "per_component", "per_depth"})


class Cells(NamedTuple):
    """All scopes of one kind, or one named scope, under one corruption set as it was asked for."""

    scope: str
    norm: float
    epsilon: float
    max_corrupted: int | None
    scale: str

    def __str__(self) -> str:
        """Return the cells in words."""
        few = f", at most {self.max_corrupted} weights" if self.max_corrupted is not None else ""
        return f"{clean_text(self.scope, 200)} under {name_ball(self.norm, self.epsilon, self.scale)}{few}"


def find_doubts(report: Report) -> tuple[str, ...]:
    """Return a sentence for each reason why this report cannot support a pass."""
    return (*_find_nothing_measured(report), *_find_cut_off(report), *_find_critical_flags(report), *_find_missing_cells(report))


def _find_nothing_measured(report: Report) -> Iterator[str]:
    if not report.findings:
        yield "The report has no findings: nothing was searched, so nothing can be said. Give the audit sets and scopes."
    if report.coverage.weights_audited == 0:
        yield "No weight was audited. See coverage.skipped in the report for the reasons."
    if report.subject.data.examples == 0 or report.subject.data.labels_counted == 0:
        yield "No labelled example was measured. Check the data file and objective.ignore_index."


def _find_cut_off(report: Report) -> Iterator[str]:
    if not report.complete:
        missing = f" and {len(report.unmeasured)} of its parts are missing" if report.unmeasured else ""
        yield f"The search was cut off at the deadline{missing}. Audit again with more time."


def _find_critical_flags(report: Report) -> Iterator[str]:
    for flag in report.flags:
        if flag.severity == "critical":
            where = f" on {clean_text(flag.scope, 200)}" if flag.scope is not None else ""
            yield f"The audit doubts its own figures: {clean_text(flag.code, 64)}{where}. {clean_text(flag.advice, 500)}"


def _find_missing_cells(report: Report) -> Iterator[str]:
    weights = _sum_weights(report)
    try:
        asked = dict.fromkeys(_list_asked(report))
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
        yield "The report's echo of its request cannot be read, so nobody can tell whether the search is complete. Audit again."
        return
    for cells in asked:
        if cells not in weights:
            yield f"The search is incomplete: the report has no finding for {cells}, which was asked for. Audit again."
    expected = report.coverage.weights_audited
    for cells, found in weights.items():
        if cells.scope in DIVIDING_KINDS and found != expected:
            yield f"The search is incomplete: the findings for {cells} cover {found} of {expected} audited weights. Audit again."


def _sum_weights(report: Report) -> dict[Cells, int]:
    """Return how many weights the scopes of each kind cover, for each corruption set that was asked for."""
    weights: dict[Cells, int] = defaultdict(int)
    for finding in report.findings:
        scope = finding.scope.name if finding.scope.kind == "named" else finding.scope.kind
        for limit in asked_limits(finding):
            cells = Cells(scope, norm_value(finding.set.norm), finding.set.epsilon, limit, finding.set.scale)
            weights[cells] += finding.scope.weights
    return weights


def _list_asked(report: Report) -> Iterator[Cells]:
    """Yield every combination of scope and set in the request's echo; none when the preset chose the sets."""
    for scope in report.request.get("scopes") or ():
        name = scope.get("name") if isinstance(scope, Mapping) else scope
        for entry in report.request.get("sets") or ():
            yield from _list_sets(str(name), entry)


def _list_sets(scope: str, entry: Mapping[str, Any]) -> Iterator[Cells]:
    if "rounding" in entry:
        yield Cells(scope, math.inf, 1.0, None, name_rounding(str(entry["rounding"]), str(entry["granularity"])))
        return
    for epsilon in entry["epsilon"]:
        for limit in entry["max_corrupted"]:
            yield Cells(scope, float(entry["norm"]), float(epsilon), limit, str(entry["scale"]))
