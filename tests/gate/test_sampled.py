"""Reports of sampled data: limits decide, and what was seen on the examples of the search only decides nothing."""

from datetime import date
from typing import Any

import pytest

from gate.evaluate import evaluate
from schemas.report import Report
from schemas.verdict import Verdict
from tests.gate.reports import REPORT_SHA256, build_document, build_findings, build_point, build_policy, build_report
from tests.gate.test_beyond import limits

TODAY = date(2026, 6, 1)
WHOLE = {"scope": "model", "epsilon": 0.1}
DROP = {"metric": "accuracy", "drop_at_most": 0.12}


def sample(lower: float | None, upper: float | None, method: str = "betting", examples: int = 200) -> dict[str, Any]:
    drawn = limits(lower, upper, method) | {"population": 50_000, "sample": examples}
    return drawn | {"asymptotic": method.startswith("asymptotic")}


def build_sampled(
    drop: dict[str, Any] | None = None, value: dict[str, Any] | None = None, loss: dict[str, Any] | None = None, **changes: Any
) -> Report:
    """Return a report on 200 of 50,000 examples, with limits for its figures of the whole model at epsilon 0.1."""
    document, findings = build_document(), build_findings()
    document["subject"]["data"] |= {"examples": 50_000, "sampled": True, "search_examples": 500}
    for finding in findings:
        finding["measured"] |= {"examples": 200, "interval": loss}
        finding["measured"]["metrics"]["accuracy"] |= {"drop": 0.1, "value": 0.875, "interval": drop, "value_interval": value}
    return build_report(**({"subject": document["subject"], "findings": findings} | changes))


def judge(report: Report, require: dict[str, Any], **changes: Any) -> Verdict:
    return evaluate(build_policy({"where": WHOLE, "require": require}, **changes), report, REPORT_SHA256, TODAY)


@pytest.mark.parametrize(
    ("drop", "outcome"),
    [
        (sample(0.08, 0.12), "pass"),
        (sample(0.08, 0.121), "inconclusive"),
        (sample(0.121, 0.2), "fail"),
        (sample(0.13, 0.13, "exact", 50_000), "fail"),
        (sample(0.12, 0.12, "exact", 50_000), "pass"),
        (sample(None, None), "inconclusive"),
        (None, "inconclusive"),
    ],
)
def test_the_limits_of_a_drop_decide(drop: dict[str, Any] | None, outcome: str) -> None:
    assert judge(build_sampled(drop), DROP).outcome == outcome


def test_a_value_and_a_loss_have_limits_of_their_own() -> None:
    report = build_sampled(value=sample(0.85, 0.9, "hypergeometric"), loss=sample(0.5, 0.6, "asymptotic_sequence"))
    assert judge(report, {"metric": "accuracy", "at_least": 0.85}).outcome == "pass"
    assert judge(report, {"metric": "accuracy", "at_least": 0.91}).outcome == "fail"
    assert judge(report, {"loss_change_at_most": 0.4}).outcome == "fail"
    acquitted = judge(report, {"loss_change_at_most": 0.7})
    assert acquitted.outcome == "inconclusive"
    assert "gate on a metric" in acquitted.conditions[0].message
    known = build_sampled(loss=sample(0.6, 0.6, "exact", 50_000))
    assert judge(known, {"loss_change_at_most": 0.7}).outcome == "pass"


def test_the_sentence_says_how_many_examples_the_limits_are_from() -> None:
    message = judge(build_sampled(sample(0.08, 0.12)), DROP).conditions[0].message
    assert "gives an accuracy drop of 0.1 on 200 of 50000 examples, on all of them between 0.08 and 0.12" in message


def test_an_exact_figure_is_right_at_every_confidence_and_a_weak_limit_at_none() -> None:
    exact, weak = sample(0.1, 0.1, "exact", 50_000), sample(0.0, 0.01)
    assert judge(build_sampled(exact), DROP, confidence=0.999).outcome == "pass"
    assert judge(build_sampled(weak), DROP, confidence=0.999).outcome == "inconclusive"


def test_damage_that_is_not_finite_on_one_example_is_so_on_all_of_them() -> None:
    findings = build_sampled(sample(0.0, 0.01)).model_dump(mode="json")["findings"]
    for finding in findings:
        finding["measured"] |= {"loss_change": None, "interval": None, "non_finite": {"examples": 1}}
    assert judge(build_sampled(findings=findings), DROP).outcome == "fail"


@pytest.mark.parametrize(
    ("interval", "outcome"),
    [(sample(0.96, 0.99), "pass"), (sample(0.94, 0.99), "inconclusive"), (sample(0.9, 0.949), "fail"), (None, "inconclusive")],
)
def test_the_clean_model_is_judged_by_its_limits(interval: dict[str, Any] | None, outcome: str) -> None:
    intervals = {} if interval is None else {"accuracy": interval}
    clean = {"loss": 0.08, "metrics": {"accuracy": 0.975}, "loss_interval": None, "metric_intervals": intervals}
    report = build_sampled(sample(0.0, 0.1), clean=clean)
    assert judge(report, DROP, requires={"clean": {"accuracy_at_least": 0.95}}).outcome == outcome
    loss = clean | {"loss_interval": sample(0.07, 0.09, "asymptotic_sequence"), "metric_intervals": intervals}
    bounded = judge(build_sampled(sample(0.0, 0.1), clean=loss), DROP, requires={"clean": {"loss_at_most": 0.05}})
    assert bounded.outcome == "fail"


AT_HI, AT_LO = sample(0.051, 0.06), sample(0.02, 0.049)
NEVER, TIED, ASYMPTOTIC = None, sample(0.04, 0.06), sample(0.02, 0.049, "asymptotic_sequence")


@pytest.mark.parametrize(
    ("bracket", "limits_at", "outcome"),
    [
        ((0.21, 0.22), (AT_HI, AT_LO), "pass"),
        ((0.21, 0.22), (AT_HI, TIED), "warn"),
        ((0.21, 0.22), (AT_HI, ASYMPTOTIC), "warn"),
        ((0.21, 0.22), (AT_HI, None), "inconclusive"),
        ((0.11, 0.12), (AT_HI, TIED), "fail"),
        ((0.11, 0.12), (TIED, AT_LO), "warn"),
        ((0.11, 0.12), (None, AT_LO), "inconclusive"),
        ((0.3, NEVER), (AT_LO, AT_LO), "pass"),
        ((0.3, NEVER), (TIED, TIED), "warn"),
        ((0.3, NEVER), (sample(0.049, 0.049, "exact", 50_000),) * 2, "pass"),
        ((0.11, 0.22), (AT_HI, AT_LO), "inconclusive"),
    ],
)
def test_a_breaking_point_counts_as_far_as_its_limits_carry_it(
    bracket: tuple[float | None, float | None], limits_at: tuple[Any, Any], outcome: str
) -> None:
    point = build_point(*bracket) | {"interval": limits_at[0], "lo_interval": limits_at[1]}
    report = build_sampled(sample(0.0, 0.01), breaking_points=[point])
    condition = {"require": {"breaking_point_at_least": 0.2}, "undecided": "warn"}
    assert evaluate(build_policy(condition), report, REPORT_SHA256, TODAY).outcome == outcome
    strict = evaluate(build_policy(condition, confidence=0.99), report, REPORT_SHA256, TODAY).outcome
    assert strict == ("pass" if (limits_at[1] or {}).get("method") == "exact" else "inconclusive")


def test_a_crossing_that_is_not_finite_needs_no_limits() -> None:
    point = build_point(0.11, 0.12) | {"observed": None}
    report = build_sampled(sample(0.0, 0.01), breaking_points=[point])
    assert evaluate(build_policy({"require": {"breaking_point_at_least": 0.2}}), report, REPORT_SHA256, TODAY).outcome == "fail"


def test_what_the_search_saw_on_its_own_examples_decides_nothing() -> None:
    report = build_sampled(sample(0.0, 0.01))
    point = evaluate(build_policy({"require": {"breaking_point_at_least": 0.01}}), report, REPORT_SHA256, TODAY)
    assert point.outcome == "inconclusive"
    assert "no confidence limits" in point.conditions[0].message
    policy = build_policy({"where": WHOLE, "require": DROP}, regression={"metric_drop_increase_at_most": 1.0})
    assert evaluate(policy, report, REPORT_SHA256, TODAY, (report, REPORT_SHA256)).outcome == "inconclusive"
    bounded = report.model_dump(mode="json")["findings"]
    for finding in bounded:
        finding["upper_bound"] = {
            "loss_change": 0.1,
            "kind": "upper_bound",
            "status": "available",
            "reason": None,
            "metrics": {"accuracy": 0.01},
        }
    assert judge(build_sampled(findings=bounded), DROP).assurance == "searched"
