"""One condition of a policy, judged on every finding or breaking point that it reads."""

from collections.abc import Sequence

from gate.breaking_points import judge_point
from gate.findings import judge_finding
from gate.judgement import Judgement
from gate.matching import find_breaking_points, find_findings
from gate.waivers import ActiveWaivers
from schemas.policy import Condition, Require, Waiver
from schemas.report import Report
from schemas.verdict import ConditionVerdict, Outcome


def judge_condition(condition: Condition, report: Report, waivers: ActiveWaivers) -> ConditionVerdict:
    """Return the outcome of one condition: the worst over everything that it reads, after waivers."""
    judgements = _judge_matches(condition, report)
    waived = {i: waiver for i, one in enumerate(judgements) if (waiver := _find_waiver(condition, one, waivers)) is not None}
    standing = [one for i, one in enumerate(judgements) if i not in waived]
    exceeded = [one for one in standing if one.state == "exceeded"]
    undecided = [one for one in standing if one.state == "undecided"]
    if exceeded:
        outcome: Outcome = "warn" if condition.severity == "warning" else "fail"
        return _build_verdict(condition, outcome, exceeded, judgements)
    if undecided:
        return _build_verdict(condition, "inconclusive", undecided, judgements)
    if waived:
        return _build_verdict(condition, "warn", [judgements[i] for i in waived], judgements, tuple(waived.values()))
    if judgements:
        return _build_verdict(condition, "pass", judgements, judgements)
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


def _judge_matches(condition: Condition, report: Report) -> list[Judgement]:
    threshold = condition.require.breaking_point_at_least
    if threshold is not None:
        points = find_breaking_points(report, condition.where, condition.require)
        return [judge_point(point, threshold, report) for point in points]
    return [judge_finding(finding, condition.require, report) for finding in find_findings(report, condition.where)]


def _find_waiver(condition: Condition, judgement: Judgement, waivers: ActiveWaivers) -> Waiver | None:
    """Return the waiver that covers a failure; what could not be decided cannot be waived."""
    if judgement.state != "exceeded":
        return None
    return waivers.find_for(condition.id, judgement.kinds, judgement.scope)


def _build_verdict(
    condition: Condition,
    outcome: Outcome,
    deciding: Sequence[Judgement],
    judgements: Sequence[Judgement],
    waivers: Sequence[Waiver] = (),
) -> ConditionVerdict:
    worst = max(deciding, key=lambda judgement: judgement.badness)
    owners = ", ".join(dict.fromkeys(waiver.owner for waiver in waivers)) or None
    return ConditionVerdict(
        id=condition.id,
        outcome=outcome,
        finding=worst.finding,
        scope=worst.scope,
        matched=len(judgements),
        observed=worst.observed,
        threshold=read_threshold(condition.require),
        waived_by=owners,
        message=_say(worst, len(deciding), len(judgements), waivers),
    )


def _say(worst: Judgement, deciding: int, matched: int, waivers: Sequence[Waiver]) -> str:
    sentence = worst.message[:1].upper() + worst.message[1:]
    if waivers:
        named = "; ".join(dict.fromkeys(f"{waiver.owner} until {waiver.expires} ({waiver.reason})" for waiver in waivers))
        return f"{sentence} Waived by {named}."
    if deciding > 1 and worst.state != "holds":
        return f"{sentence} The same holds for {deciding - 1} more of the {matched} that the condition reads."
    return sentence


def _build_no_match(condition: Condition) -> ConditionVerdict:
    asked = condition.where.model_dump(mode="json", exclude_none=True)
    where = ", ".join(f"{name} {value}" for name, value in asked.items()) or "anything"
    what = "breaking point" if condition.require.breaking_point_at_least is not None else "finding"
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
