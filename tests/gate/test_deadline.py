"""Reports that were cut off at their deadline: what is exceeded is exceeded, and nothing else is decided."""

from datetime import date

import pytest

from gate.evaluate import evaluate
from schemas.report import Report
from schemas.verdict import Verdict
from tests.gate.reports import REPORT_SHA256, Finding, build_changed, build_policy, build_report

DAY = date(2026, 6, 1)


def cut(finding: Finding) -> None:
    finding["stop_reason"] = "deadline"


def judge(report: Report, limit: float) -> Verdict:
    return evaluate(
        build_policy({"where": {"scope": "model"}, "require": {"loss_change_at_most": limit}}), report, REPORT_SHA256, DAY
    )


@pytest.mark.parametrize(("limit", "outcome"), [(1e6, "inconclusive"), (1e-6, "fail")])
def test_a_finding_that_was_cut_off_decides_only_what_it_exceeds(limit: float, outcome: str) -> None:
    verdict = judge(build_changed(cut), limit)
    assert [condition.outcome for condition in verdict.conditions] == [outcome]
    assert ("cut off at the deadline" in verdict.conditions[0].message) == (outcome == "inconclusive")


def test_an_incomplete_report_is_inconclusive_without_a_flag_too() -> None:
    missing = {"what": "bit_flips", "scope": "*", "kind": None, "set": {"counts": [1]}}
    verdict = judge(build_report(complete=False, unmeasured=[missing]), 1e6)
    assert verdict.outcome == "inconclusive"
    assert "and 1 of its parts are missing" in verdict.reasons[0]
    assert judge(build_report(complete=False), 1e-6).outcome == "fail"


def test_an_incomplete_baseline_is_not_compared() -> None:
    policy = build_policy({"require": {"breaking_point_at_least": 1e-3}}, regression={"loss_change_ratio_at_most": 1.5})
    baseline = build_report(complete=False)
    regression = evaluate(policy, build_report(), REPORT_SHA256, DAY, (baseline, "5b" * 32)).regression
    assert regression is not None
    assert regression.outcome == "inconclusive"
    assert "cut off" in regression.messages[0]
