"""One condition of a policy, judged on every finding or breaking point that it reads."""

from collections.abc import Sequence

from gate.breaking_points import judge_point
from gate.findings import judge_finding
from gate.flips import judge_flips
from gate.judgement import Judgement, State
from gate.matching import find_breaking_points, find_findings, find_kinds
from gate.waivers import ActiveWaivers
from schemas.policy import Condition, Require, Waiver
from schemas.report import Report
from schemas.verdict import ConditionVerdict, Outcome


def judge_condition(condition: Condition, report: Report, waivers: ActiveWaivers, confidence: float) -> ConditionVerdict:
    """Return the outcome of one condition: the worst over everything that it reads, after waivers."""
    judgements = [_settle(one, condition.undecided) for one in _judge_matches(condition, report, confidence)]
    granted = {i: waiver for i, one in enumerate(judgements) if (waiver := _find_waiver(condition, one, waivers)) is not None}
    standing = [one for i, one in enumerate(judgements) if i not in granted]
    exceeded = [one for one in standing if one.state == "exceeded"]
    undecided = [one for one in standing if one.state == "undecided"]
    matched, waived = len(judgements), tuple(waiver for waiver in waivers.waivers if waiver in granted.values())
    if exceeded:
        outcome: Outcome = "warn" if condition.severity == "warning" else "fail"
        return _build_verdict(condition, outcome, exceeded, matched, _say_besides(waived, len(granted)))
    if undecided:
        return _build_verdict(condition, "inconclusive", undecided, matched, _say_besides(waived, len(granted)))
    between = [one for one in standing if one.state == "between"]
    if between:
        return _build_verdict(condition, "warn", between, matched, _say_besides(waived, len(granted)))
    if granted:
        verdict = _build_verdict(condition, "warn", [judgements[i] for i in granted], matched, f" Waived by {_name(waived)}.")
        return verdict.model_copy(update={"waived_by": ", ".join(dict.fromkeys(waiver.owner for waiver in waived))})
    if judgements:
        return _build_verdict(condition, "pass", judgements, matched)
    return _build_no_match(condition)


def read_threshold(require: Require) -> float:
    """Return the one number of a demand."""
    given = (
        require.drop_at_most,
        require.at_least,
        require.at_most,
        require.loss_change_at_most,
        require.breaking_point_at_least,
    )
    return next(value for value in given if value is not None)


def _settle(judgement: Judgement, undecided: str) -> Judgement:
    """Return the judgement with what the condition makes of a threshold between two limits; "warn" is left for later."""
    states: dict[str, State] = {"inconclusive": "undecided", "fail": "exceeded", "pass": "holds"}
    return judgement._replace(state=states.get(undecided, "between")) if judgement.state == "between" else judgement


def _judge_matches(condition: Condition, report: Report, confidence: float) -> list[Judgement]:
    if condition.where.bit_flips is not None:
        return judge_flips(report, condition.where, condition.require)
    threshold = condition.require.breaking_point_at_least
    if threshold is not None:
        kinds = find_kinds(report)
        points, sampled = find_breaking_points(report, condition.where, condition.require, kinds), report.subject.data.sampled
        return [
            judge_point(point, threshold, kinds.get(point.scope, frozenset()), confidence, sampled=sampled) for point in points
        ]
    return [judge_finding(finding, condition.require, report, confidence) for finding in find_findings(report, condition.where)]


def _find_waiver(condition: Condition, judgement: Judgement, waivers: ActiveWaivers) -> Waiver | None:
    """Return the waiver that covers a failure; what could not be decided cannot be waived."""
    if judgement.state != "exceeded":
        return None
    return waivers.find_for(condition.id, judgement.kinds, judgement.scope)


def _build_verdict(
    condition: Condition, outcome: Outcome, deciding: Sequence[Judgement], matched: int, addition: str = ""
) -> ConditionVerdict:
    worst = max(deciding, key=lambda judgement: judgement.badness)
    sentence = worst.message[:1].upper() + worst.message[1:]
    if len(deciding) > 1 and worst.state != "holds":
        sentence += f" The same goes for {len(deciding) - 1} more of the {matched} that the condition reads."
    return ConditionVerdict(
        id=condition.id,
        outcome=outcome,
        finding=worst.finding,
        scope=worst.scope,
        matched=matched,
        observed=worst.observed,
        threshold=read_threshold(condition.require),
        waived_by=None,
        message=sentence + addition,
    )


def _say_besides(waived: Sequence[Waiver], count: int) -> str:
    return f" Besides, {count} failing match(es) are waived by {_name(waived)}." if waived else ""


def _name(waivers: Sequence[Waiver]) -> str:
    return "; ".join(f"{waiver.owner} until {waiver.expires} ({waiver.reason})" for waiver in waivers)


def _build_no_match(condition: Condition) -> ConditionVerdict:
    asked = condition.where.model_dump(mode="json", exclude_none=True)
    where = ", ".join(f"{name} {value}" for name, value in asked.items()) or "anything"
    searched = "finding" if condition.where.bit_flips is None else "search"
    what = "breaking point" if condition.require.breaking_point_at_least is not None else searched
    return ConditionVerdict(
        id=condition.id,
        outcome="inconclusive",
        finding=None,
        scope=None,
        matched=0,
        observed=None,
        threshold=read_threshold(condition.require),
        waived_by=None,
        message=f"The report has no {what} for {where}. Add it to the audit's request, or correct the condition's where.",
    )
