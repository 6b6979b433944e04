"""Doubts about the whole report: each forbids a pass although every condition holds."""

from datetime import date
from typing import Any

import pytest

from gate.evaluate import evaluate
from schemas.report import Report
from schemas.verdict import Verdict
from tests.gate.reports import REPORT_SHA256, build_document, build_findings, build_policy, build_report, build_request

FLAG: dict[str, Any] = {"code": "chance_level", "scope": None, "evidence": {}, "advice": "Train the model first."}


def judge(report: Report) -> Verdict:
    policy = build_policy({"require": {"loss_change_at_most": 1e6}}, {"require": {"breaking_point_at_least": 1e-3}})
    return evaluate(policy, report, REPORT_SHA256, date(2026, 6, 1))


def test_a_complete_report_raises_no_doubt() -> None:
    verdict = judge(build_report())
    assert (verdict.outcome, verdict.reasons) == ("pass", ())


@pytest.mark.parametrize(("severity", "outcome"), [("critical", "inconclusive"), ("warning", "pass"), ("info", "pass")])
def test_only_a_critical_flag_forbids_a_pass(severity: str, outcome: str) -> None:
    verdict = judge(build_report(flags=[FLAG | {"severity": severity}]))
    assert verdict.outcome == outcome
    assert [reason for reason in verdict.reasons if "chance_level" in reason] == list(verdict.reasons)


def test_no_findings_is_inconclusive_even_where_only_a_breaking_point_is_asked() -> None:
    policy = build_policy({"require": {"breaking_point_at_least": 1e-3}})
    request = build_request() | {"sets": None}
    verdict = evaluate(policy, build_report(findings=[], request=request), REPORT_SHA256, date(2026, 6, 1))
    assert verdict.conditions[0].outcome == "pass"
    assert verdict.outcome == "inconclusive"


def _subject(**data: Any) -> dict[str, Any]:
    subject: dict[str, Any] = build_document()["subject"]
    return subject | {"data": subject["data"] | data}


@pytest.mark.parametrize(
    "changes",
    [
        {"subject": _subject(examples=0)},
        {"subject": _subject(labels_counted=0)},
        {"coverage": build_document()["coverage"] | {"weights_audited": 0}},
        {"findings": build_findings()[:-1]},
        {"findings": build_findings()[2:]},
        {"findings": [one for one in build_findings() if one["set"]["epsilon"] == 0.1]},
        {"findings": [one for one in build_findings() if one["scope"]["name"] != "classifier"]},
        {"request": build_request() | {"scopes": ["model", "per_module", {"name": "head", "match": "classifier*"}]}},
        {"request": build_request() | {"scopes": ["model", "per_module", "per_tensor"]}},
        {
            "request": build_request()
            | {"sets": [{"norm": "inf", "epsilon": [0.1], "max_corrupted": [None], "scale": "absolute"}]}
        },
        {
            "request": build_request()
            | {"sets": [{"norm": 2.0, "epsilon": [0.1], "max_corrupted": [None, 10], "scale": "absolute"}]}
        },
        {"request": build_request() | {"sets": [{"epsilon": [0.1]}]}},
        {"request": build_request() | {"sets": 3}},
    ],
    ids=[
        "no examples",
        "no labels",
        "no weights",
        "one finding gone",
        "whole model gone",
        "an epsilon gone",
        "a module gone",
        "a named scope gone",
        "a kind gone",
        "a norm gone",
        "a limit gone",
        "echo without norm",
        "echo of another shape",
    ],
)
def test_an_incomplete_report_is_inconclusive_and_says_why(changes: dict[str, Any]) -> None:
    verdict = judge(build_report(**changes))
    assert verdict.outcome == "inconclusive"
    assert verdict.reasons


def test_cells_that_coincide_are_not_missing() -> None:
    findings = build_findings()
    for finding in findings:
        if finding["scope"]["name"] == "features.0":  # 80 weights: at most 100 is all of them
            finding["set"]["also_asked"] = [100]
    few = [
        finding | {"id": f"g-{i}", "set": finding["set"] | {"max_corrupted": 100, "weights_corrupted": 100}}
        for i, finding in enumerate(build_findings())
        if finding["scope"]["name"] != "features.0"
    ]
    sets = [{"norm": 2.0, "epsilon": [0.1, 0.3], "max_corrupted": [None, 100], "scale": "absolute"}]
    assert judge(build_report(findings=findings + few, request=build_request() | {"sets": sets})).outcome == "pass"


def test_coverage_says_what_was_left_out() -> None:
    coverage = build_document()["coverage"] | {
        "weights_total": 6000,
        "skipped": [
            {"name": "a", "weights": 600, "reason": "integer"},
            {"name": "b", "weights": 60, "reason": "integer"},
            {"name": "c", "weights": 2, "reason": "no_gradient_path"},
        ],
    }
    message = judge(build_report(coverage=coverage)).coverage.message
    assert message == "5338 of 6000 weights (89.0%) were audited. Left out: 660 (integer), 2 (no_gradient_path)."
