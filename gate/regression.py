"""A report against an earlier one: the same cells, compared one by one."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from gate.damage import describe_non_finite
from gate.matching import asked_limits, is_same_size
from gate.requirements import METHOD_RANK, read_search
from gate.wording import name_cell, show_number
from schemas.base import norm_value
from schemas.policy import Regression
from schemas.report import Finding, Report
from schemas.verdict import Outcome, RegressionVerdict

AGREEMENT = 1e-5
"""Two float32 computations of one loss change agree within this share of it and of the clean loss (method section 10)."""
MAX_LISTED = 20


class Pair(NamedTuple):
    """One cell in both reports."""

    now: Finding
    before: Finding


def judge_regression(limits: Regression, report: Report, baseline: tuple[Report, str] | None) -> RegressionVerdict:
    """Return whether the damage grew beyond the limits since the baseline; what cannot be compared is inconclusive."""
    if baseline is None:
        return _build("inconclusive", 0, None, ["The policy limits regressions and no baseline report was given. Give one."])
    before, digest = baseline
    obstacles = list(_find_obstacles(report, before))
    if obstacles:
        return _build("inconclusive", 0, digest, obstacles)
    pairs = _find_pairs(report, before)
    worse = [message for pair in pairs for message in _find_worse(limits, pair, report, before)]
    gaps = [message for pair in pairs for message in _find_gaps(limits, pair)]
    if not pairs:
        gaps = ["The reports have no cell in common: no scope of the same name under the same set. Audit both with one request."]
    elif dropped := _find_dropped(report, before):
        gaps.append(_say_dropped(dropped))
    outcome: Outcome = "fail" if worse else "inconclusive" if gaps else "pass"
    return _build(outcome, len(pairs), digest, [*worse, *gaps] or [_say_pass(len(pairs), len(before.findings))])


def _find_obstacles(report: Report, before: Report) -> Iterator[str]:
    """Yield why the two reports do not measure the same thing."""
    now, then = report.subject.data.sha256, before.subject.data.sha256
    if now != then:
        yield f"The baseline was measured on other data ({then[:12]}, now {now[:12]}). Audit both models on the same data."
    if not before.complete:
        yield "The baseline was cut off at its deadline, so more damage may be there now than was found. Audit it with more time."
    if report.subject.data.sampled or before.subject.data.sampled:
        yield "The data of a report was sampled, so a difference may be chance. Audit both without max_examples and precision."
    if _read_objective(report) != _read_objective(before):
        yield "The baseline was measured with another objective. Audit both models with the same objective."
    if _read_reading(report) != _read_reading(before):
        yield "The baseline's data was read in another way, or with other weights. Audit both models with the same request."
    search, earlier = read_search(report), read_search(before)
    if METHOD_RANK.get(str(search.get("method")), -1) < METHOD_RANK.get(str(earlier.get("method")), -1):
        yield "The baseline was searched with a stronger method, so more damage may be there now than was found. Use the same."
    elif _read_budget(search) < _read_budget(earlier):
        yield "The baseline was searched with a larger budget, so more damage may be there now than was found. Use the same."


def _read_objective(report: Report) -> object:
    """Return the objective; a field that says nothing is as one that is not there."""
    told = report.request.get("objective")
    return {name: value for name, value in told.items() if value is not None} if isinstance(told, dict) else told


def _read_reading(report: Report) -> dict[str, Any]:
    """Return how the data was read and what counts as weights; a field that says nothing is as one that is not there."""
    data = report.request.get("data") or {}
    told = {name: value for name, value in data.items() if name not in {"uri", "format", "max_examples"} and value}
    return {**told, "running_statistics": bool(report.request.get("running_statistics"))}


def _read_budget(search: dict[str, Any]) -> int:
    budget = search.get("budget_passes")
    return budget if isinstance(budget, int) else 0


def _find_pairs(report: Report, before: Report) -> list[Pair]:
    earlier = _group_by_scope(before)
    candidates = ((now, earlier[now.scope.kind, now.scope.name]) for now in report.findings)
    return [Pair(now, then) for now, others in candidates if (then := _find_counterpart(now, others)) is not None]


def _find_dropped(report: Report, before: Report) -> list[Finding]:
    """Return the baseline's findings that this report has no word on: damage may have grown there."""
    now = _group_by_scope(report)
    return [then for then in before.findings if _find_counterpart(then, now[then.scope.kind, then.scope.name]) is None]


def _group_by_scope(report: Report) -> dict[tuple[str, str], list[Finding]]:
    groups: dict[tuple[str, str], list[Finding]] = defaultdict(list)
    for finding in report.findings:
        groups[finding.scope.kind, finding.scope.name].append(finding)
    return groups


def _find_counterpart(finding: Finding, others: Sequence[Finding]) -> Finding | None:
    """Return the one of the same scope's earlier findings that has the same set."""
    for other in others:
        if (
            (norm_value(other.set.norm), other.set.scale) == (norm_value(finding.set.norm), finding.set.scale)
            and is_same_size(other.set.epsilon, finding.set.epsilon)
            and asked_limits(other) & asked_limits(finding)
        ):
            return other
    return None


def _find_worse(limits: Regression, pair: Pair, report: Report, before: Report) -> Iterator[str]:
    cell, broken = name_cell(pair.now), describe_non_finite(pair.now)
    if broken is not None:
        if describe_non_finite(pair.before) is None:
            yield f"A corruption of {cell} now {broken}; in the baseline none did."
        return
    ratio, increase = limits.loss_change_ratio_at_most, limits.metric_drop_increase_at_most
    now, then = pair.now.measured.loss_change, pair.before.measured.loss_change
    if ratio is not None and now is not None and then is not None:
        noise = AGREEMENT * (abs(now) + max(report.clean.loss, before.clean.loss))
        if now > ratio * max(then, 0.0) + noise:
            yield f"The loss change of {cell} rose from {show_number(then)} to {show_number(now)}; {ratio:g} times is allowed."
    if increase is not None:
        yield from _find_larger_drops(increase, pair)


def _find_larger_drops(increase: float, pair: Pair) -> Iterator[str]:
    for metric, (now, then) in _list_drops(pair).items():
        if now is not None and then is not None and now - then > increase + 1e-12:
            change = f"from {show_number(then)} to {show_number(now)}"
            yield f"The {metric} drop of {name_cell(pair.now)} rose {change}; an increase of {increase:g} is allowed."


def _find_gaps(limits: Regression, pair: Pair) -> Iterator[str]:
    """Yield which figures a finite pair lacks."""
    if describe_non_finite(pair.now) is not None or describe_non_finite(pair.before) is not None:
        return
    losses = (pair.now.measured.loss_change, pair.before.measured.loss_change)
    if limits.loss_change_ratio_at_most is not None and None in losses:
        yield f"The loss change of {name_cell(pair.now)} is missing in one of the reports. Audit again."
    if limits.metric_drop_increase_at_most is not None:
        drops = _list_drops(pair)
        if not drops or any(None in both for both in drops.values()):
            yield f"A metric of {name_cell(pair.now)} is missing in one of the reports. Audit both with the same metrics."


def _list_drops(pair: Pair) -> dict[str, tuple[float | None, float | None]]:
    """Return each metric's drop now and in the baseline, for metrics that either report has."""
    now, then = pair.now.measured.metrics, pair.before.measured.metrics
    return {
        metric: (now[metric].drop if metric in now else None, then[metric].drop if metric in then else None)
        for metric in sorted(now.keys() | then.keys())
    }


def _say_dropped(dropped: Sequence[Finding]) -> str:
    more = f" and {len(dropped) - 1} more" if len(dropped) > 1 else ""
    return f"The baseline has {name_cell(dropped[0])}{more}, which this report has not. Audit both models with the same request."


def _say_pass(compared: int, earlier: int) -> str:
    return f"None of the {compared} cells in both reports is worse than the limits allow; the baseline has {earlier} findings."


def _build(outcome: Outcome, compared: int, digest: str | None, messages: list[str]) -> RegressionVerdict:
    if len(messages) > MAX_LISTED:
        messages = [*messages[:MAX_LISTED], f"{len(messages) - MAX_LISTED} more are not listed."]
    return RegressionVerdict(outcome=outcome, compared=compared, baseline_sha256=digest, messages=tuple(messages))
