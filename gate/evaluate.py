"""The gate: report and policy in, verdict out. Pure, and closed when in doubt.

A pass means that nothing above the limits was found with the report's method and budget. Whatever cannot be
judged is inconclusive, never a pass: docs/gate.md has the whole table.
"""

from collections import Counter
from collections.abc import Iterable
from datetime import date

from gate.certainty import is_proved
from gate.completeness import find_doubts
from gate.conditions import judge_condition
from gate.regression import judge_regression
from gate.requirements import judge_requirements
from gate.waivers import list_expired, list_other_models, select_active
from schemas.base import SCHEMA_VERSION, canonical_bytes, compute_sha256
from schemas.policy import Policy
from schemas.report import Report
from schemas.verdict import CoverageLine, Outcome, Verdict

RANK: dict[Outcome, int] = {"pass": 0, "warn": 1, "inconclusive": 2, "fail": 3}
"""Outcomes from the best to the worst; the worst part decides the whole."""


def evaluate(
    policy: Policy, report: Report, report_sha256: str, today: date, baseline: tuple[Report, str] | None = None
) -> Verdict:
    """Return what `policy` says of `report`.

    Args:
        policy: the rules.
        report: the report under judgement.
        report_sha256: the digest of the report's canonical bytes, as its publisher computed it.
        today: the day that waivers expire against, in UTC.
        baseline: an earlier report and its digest, for `policy.regression`.

    Returns:
        The verdict, with a sentence for each condition, requirement and doubt.

    """
    waivers = select_active(policy, report, today)
    conditions = tuple(judge_condition(condition, report, waivers, policy.confidence) for condition in policy.conditions)
    requires = judge_requirements(policy.requires, report, policy.confidence)
    regression = judge_regression(policy.regression, report, baseline) if policy.regression is not None else None
    doubts = find_doubts(report)
    parts: list[Outcome] = [*(part.outcome for part in conditions), *(part.outcome for part in requires)]
    parts += ["inconclusive"] * bool(doubts)
    parts += [regression.outcome] if regression is not None else []
    outcome = find_worst(parts)
    return Verdict(
        schema_version=SCHEMA_VERSION,
        outcome=outcome,
        assurance="certified" if outcome == "pass" and is_proved(policy, report) else "searched",
        policy_name=policy.name,
        policy_sha256=compute_sha256(canonical_bytes(policy)),
        report_sha256=report_sha256,
        model_sha256=report.subject.model.sha256,
        conditions=conditions,
        requires=requires,
        coverage=_describe_coverage(report),
        regression=regression,
        expired_waivers=list_expired(policy, today),
        reasons=(*doubts, *list_other_models(policy, report, today)),
    )


def find_worst(outcomes: Iterable[Outcome]) -> Outcome:
    """Return the worst outcome; of nothing, inconclusive.

    >>> find_worst(["pass", "inconclusive", "warn"])
    'inconclusive'
    """
    return max(outcomes, key=RANK.__getitem__, default="inconclusive")


def _describe_coverage(report: Report) -> CoverageLine:
    coverage = report.coverage
    share = coverage.weights_audited / coverage.weights_total if coverage.weights_total else 0.0
    message = f"{coverage.weights_audited} of {coverage.weights_total} weights ({share:.1%}) were audited."
    skipped: Counter[str] = Counter()
    for tensor in coverage.skipped:
        skipped[tensor.reason] += tensor.weights
    if skipped:
        message += f" Left out: {', '.join(f'{weights} ({reason})' for reason, weights in sorted(skipped.items()))}."
    return CoverageLine(weights_total=coverage.weights_total, weights_audited=coverage.weights_audited, message=message)
