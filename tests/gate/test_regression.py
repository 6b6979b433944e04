"""A report against a baseline: the same cells, the same data, the same effort, or no answer."""

from datetime import date
from typing import Any

import pytest

from gate.evaluate import evaluate
from schemas.report import Report
from schemas.verdict import RegressionVerdict
from tests.gate.reports import (
    REPORT_SHA256,
    Finding,
    build_changed,
    build_document,
    build_policy,
    build_report,
    build_request,
)

BASELINE_SHA256 = "5b" * 32
RATIO = {"loss_change_ratio_at_most": 1.5}
INCREASE = {"metric_drop_increase_at_most": 0.02}


def judge(regression: dict[str, Any], report: Report, baseline: Report | None) -> RegressionVerdict:
    policy = build_policy({"require": {"breaking_point_at_least": 1e-3}}, regression=regression)
    given = (baseline, BASELINE_SHA256) if baseline is not None else None
    verdict = evaluate(policy, report, REPORT_SHA256, date(2026, 6, 1), given)
    assert verdict.regression is not None
    assert verdict.outcome == verdict.regression.outcome
    assert verdict.regression.messages
    return verdict.regression


def scale(factor: float, drop: float = 0.0) -> Report:
    def change(finding: Finding) -> None:
        finding["measured"]["loss_change"] *= factor
        finding["measured"]["metrics"]["accuracy"]["drop"] += drop

    return build_changed(change, where=lambda finding: finding["id"] == "f-0005")


def break_it(finding: Finding) -> None:
    finding["measured"] |= {"loss_change": None, "non_finite": {"examples": 2}}


@pytest.mark.parametrize(
    ("regression", "report", "outcome"),
    [
        (RATIO, scale(1.0), "pass"),
        (RATIO, scale(1.5), "pass"),
        (RATIO, scale(1.51), "fail"),
        (RATIO, scale(0.1), "pass"),
        (INCREASE, scale(9.0), "pass"),
        (INCREASE, scale(1.0, 0.02), "pass"),
        (INCREASE, scale(1.0, 0.021), "fail"),
        (RATIO | INCREASE, scale(1.0, 0.021), "fail"),
        (RATIO | INCREASE, scale(1.6), "fail"),
        (RATIO, build_changed(break_it), "fail"),
        (INCREASE, build_changed(break_it), "fail"),
    ],
)
def test_growth_of_one_cell_against_the_limits(regression: dict[str, Any], report: Report, outcome: str) -> None:
    verdict = judge(regression, report, build_report())
    assert (verdict.outcome, verdict.compared, verdict.baseline_sha256) == (outcome, 8, BASELINE_SHA256)


def test_what_was_broken_before_is_no_regression() -> None:
    assert judge(RATIO | INCREASE, build_changed(break_it), build_changed(break_it)).outcome == "pass"
    assert judge(RATIO | INCREASE, build_report(), build_changed(break_it)).outcome == "pass"


def test_a_loss_change_within_rounding_of_nothing_is_no_regression() -> None:
    tiny = build_changed(lambda finding: finding["measured"].update(loss_change=1e-9))
    larger = build_changed(lambda finding: finding["measured"].update(loss_change=1e-7))
    real = build_changed(lambda finding: finding["measured"].update(loss_change=1e-4))
    negative = build_changed(lambda finding: finding["measured"].update(loss_change=-0.5))
    assert judge(RATIO, larger, tiny).outcome == "pass"
    assert judge(RATIO, real, tiny).outcome == "fail"
    assert judge(RATIO, real, negative).outcome == "fail"


def test_without_a_baseline_a_regression_limit_is_inconclusive() -> None:
    verdict = judge(RATIO, build_report(), None)
    assert (verdict.outcome, verdict.baseline_sha256) == ("inconclusive", None)


def _baseline_with(section: str, **changes: Any) -> Report:
    request = build_request()
    return build_report(request=request | {section: request[section] | changes})


def _on_other_data() -> Report:
    subject = build_document()["subject"]
    return build_report(subject=subject | {"data": subject["data"] | {"sha256": "99" * 32}})


@pytest.mark.parametrize(
    "baseline",
    [
        _on_other_data(),
        _baseline_with("objective", loss="mse"),
        _baseline_with("data", target="other"),
        _baseline_with("search", budget_passes=65),
        build_changed(lambda finding: finding["set"].update(epsilon=finding["set"]["epsilon"] * 2)),
        build_changed(lambda finding: finding["scope"].update(name="old." + finding["scope"]["name"])),
        build_changed(lambda finding: finding["set"].update(norm="inf")),
        build_changed(lambda finding: finding["set"].update(max_corrupted=10)),
        build_changed(lambda finding: finding["measured"].update(loss_change=None)),
    ],
    ids=["data", "objective", "column", "larger budget", "epsilon", "names", "norm", "max_corrupted", "figure missing"],
)
def test_what_cannot_be_compared_is_inconclusive(baseline: Report) -> None:
    assert judge(RATIO, build_report(), baseline).outcome == "inconclusive"


def test_a_baseline_from_before_a_field_of_the_objective_is_compared() -> None:
    now = _baseline_with("objective", program=None)
    assert judge(RATIO, now, build_report()).outcome == "pass"
    assert judge(RATIO, _baseline_with("objective", program={"uri": "x"}), build_report()).outcome == "inconclusive"


def test_a_weaker_search_than_the_baseline_s_hides_damage_and_is_inconclusive() -> None:
    weak = _baseline_with("search", method="first_order")
    assert judge(RATIO, weak, build_report()).outcome == "inconclusive"
    assert judge(RATIO, build_report(), weak).outcome == "pass"


def test_metrics_that_only_one_report_has_are_inconclusive() -> None:
    bare = build_changed(lambda finding: finding["measured"].update(metrics={}))
    assert judge(INCREASE, bare, build_report()).outcome == "inconclusive"
    assert judge(INCREASE, bare, bare).outcome == "inconclusive"


def test_a_cell_that_is_not_asked_for_any_more_could_hide_damage() -> None:
    findings = build_document()["findings"]
    less = judge(RATIO, build_report(findings=findings[1:]), build_report())
    assert (less.outcome, less.compared) == ("inconclusive", 7)
    assert "which this report has not" in less.messages[-1]
    assert judge(RATIO, build_report(), build_report(findings=findings[1:])).outcome == "pass"


def test_a_flood_of_regressions_is_bounded() -> None:
    names = [f"layer.{i}" for i in range(40)]
    finding = build_document()["findings"][2]

    def sized(loss_change: float) -> Report:
        findings = [
            finding
            | {
                "id": name,
                "scope": finding["scope"] | {"name": name},
                "measured": finding["measured"] | {"loss_change": loss_change},
            }
            for name in names
        ]
        return build_report(findings=findings)

    verdict = judge(RATIO, sized(2.0), sized(1.0))
    assert (verdict.outcome, verdict.compared, len(verdict.messages)) == ("fail", 40, 21)
    assert verdict.messages[-1] == "20 more are not listed."


def test_a_baseline_without_a_limit_is_not_read() -> None:
    policy = build_policy({"require": {"loss_change_at_most": 1e6}})
    verdict = evaluate(policy, build_report(), REPORT_SHA256, date(2026, 6, 1), (_on_other_data(), BASELINE_SHA256))
    assert (verdict.outcome, verdict.regression) == ("pass", None)
