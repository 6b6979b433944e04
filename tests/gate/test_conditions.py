"""One condition at a time: which findings it reads, and what it says of them."""

from datetime import date
from typing import Any

import pytest

from gate.evaluate import evaluate
from schemas.report import Report
from schemas.verdict import ConditionVerdict
from tests.gate.reports import (
    CLEAN_ACCURACY,
    REPORT_SHA256,
    Change,
    Finding,
    build_changed,
    build_findings,
    build_policy,
    build_report,
)

TODAY = date(2026, 6, 1)


def judge(report: Report, require: dict[str, Any], where: dict[str, Any] | None = None, **more: Any) -> ConditionVerdict:
    policy = build_policy({"where": where or {}, "require": require} | more)
    return evaluate(policy, report, REPORT_SHA256, TODAY).conditions[0]


def in_module(name: str) -> Any:
    return lambda finding: finding["scope"]["name"] == name


LOSS_1 = {"loss_change_at_most": 1.0}
WHERE: list[tuple[dict[str, Any], int]] = [
    ({}, 8),
    ({"scope": "model"}, 2),
    ({"scope": "per_module"}, 6),
    ({"scope": "per_tensor"}, 0),
    ({"scope": "named"}, 0),
    ({"scope": "features.3"}, 2),
    ({"scope": "features.*"}, 4),
    ({"scope": "feature"}, 0),
    ({"scope": "*"}, 8),
    ({"norm": 2}, 8),
    ({"norm": "inf"}, 0),
    ({"epsilon": 0.1}, 4),
    ({"epsilon": 0.1 + 1e-16}, 4),
    ({"epsilon": 0.1001}, 0),
    ({"scope": "per_module", "norm": 2, "epsilon": 0.3, "scale": "absolute"}, 3),
    ({"max_corrupted": 100}, 0),
]


@pytest.mark.parametrize(("where", "matched"), WHERE, ids=[str(where) for where, _ in WHERE])
def test_where_picks_findings_and_none_is_inconclusive(where: dict[str, Any], matched: int) -> None:
    verdict = judge(build_report(), {"loss_change_at_most": 1e6}, where)
    assert verdict.matched == matched
    assert verdict.outcome == ("pass" if matched else "inconclusive")


def test_a_finding_answers_for_every_limit_that_was_asked_of_it() -> None:
    def ask(finding: Finding) -> None:
        finding["set"] |= {"max_corrupted": 1000, "also_asked": [None, 5000]}

    report = build_changed(ask, where=in_module("classifier"))
    for asked in (1000, 5000):
        assert judge(report, LOSS_1, {"max_corrupted": asked}).matched == 2
    assert judge(report, LOSS_1, {"max_corrupted": 100}).matched == 0


def test_infinite_norm_is_found_by_either_spelling() -> None:
    report = build_changed(lambda finding: finding["set"].update(norm="inf"), where=in_module("classifier"))
    assert judge(report, LOSS_1, {"norm": "inf"}).matched == 2
    assert judge(report, LOSS_1, {"norm": 2}).matched == 6


REQUIRE: list[tuple[dict[str, Any], float, str]] = [
    ({"loss_change_at_most": 3.6}, 3.6, "pass"),
    ({"loss_change_at_most": 3.59}, 3.6, "fail"),
    ({"loss_change_at_most": 0}, 3.6, "fail"),
    ({"metric": "accuracy", "drop_at_most": 0.9}, 0.9, "pass"),
    ({"metric": "accuracy", "drop_at_most": 0.8}, 0.9, "fail"),
    ({"metric": "accuracy", "at_least": CLEAN_ACCURACY - 0.9}, CLEAN_ACCURACY - 0.9, "pass"),
    ({"metric": "accuracy", "at_least": 0.5}, CLEAN_ACCURACY - 0.9, "fail"),
    ({"metric": "accuracy", "at_most": 1.0}, CLEAN_ACCURACY, "pass"),
    ({"metric": "accuracy", "at_most": 0.1}, CLEAN_ACCURACY, "fail"),
]


@pytest.mark.parametrize(("require", "observed", "outcome"), REQUIRE, ids=[str(row[0]) for row in REQUIRE])
def test_the_worst_match_decides(require: dict[str, Any], observed: float, outcome: str) -> None:
    verdict = judge(build_report(), require, {"scope": "model"})
    assert verdict.observed == pytest.approx(observed, abs=1e-15)
    assert verdict.outcome == outcome
    assert verdict.scope == "model"
    assert verdict.finding in {"f-0001", "f-0002"}


def test_the_finding_shown_is_the_worst_one() -> None:
    verdict = judge(build_report(), {"loss_change_at_most": 0.5}, {"scope": "per_module"})
    assert (verdict.outcome, verdict.finding, verdict.scope, verdict.observed) == ("fail", "f-0006", "features.3", 2.4)
    assert "features.3" in verdict.message
    assert "2.4" in verdict.message
    assert "f-0006" in verdict.message


def _lose_metric(finding: Finding) -> None:
    finding["measured"]["metrics"] = {}


def _break_search(finding: Finding) -> None:
    finding["measured"] |= {"loss_change": None, "non_finite": {"examples": 3}}


def _break_one_step(finding: Finding) -> None:
    finding["first_order"] |= {"loss_change": None, "non_finite": {"examples": 1}}


def _break_random(finding: Finding) -> None:
    finding["random"]["non_finite_trials"] = 1


def _lose_loss(finding: Finding) -> None:
    finding["measured"]["loss_change"] = None


def _random_is_worse(finding: Finding) -> None:
    finding["random"]["loss_change"]["max"] = 50.0
    finding["random"]["metrics"]["accuracy"]["worst"] = 0.01


def _one_step_is_worse(finding: Finding) -> None:
    finding["first_order"]["loss_change"] = 50.0
    finding["first_order"]["metrics"]["accuracy"] = {"value": 0.01, "drop": CLEAN_ACCURACY - 0.01}


def _measured_in_part(finding: Finding) -> None:
    finding["measured"]["examples"] = 499


def _no_direction(finding: Finding) -> None:
    finding |= {"stop_reason": "zero_gradient", "random": None}


def _random_start(finding: Finding) -> None:
    finding["stop_reason"] = "zero_gradient"


def _stopped(finding: Finding) -> None:
    finding["stop_reason"] = "non_finite"


LOOSE_LOSS = {"loss_change_at_most": 10.0}
LOOSE_DROP = {"metric": "accuracy", "drop_at_most": 0.95}
LOOSE_VALUE = {"metric": "accuracy", "at_least": 0.02}
DOUBTFUL: list[tuple[Change, dict[str, Any], str]] = [
    (_lose_metric, LOOSE_DROP, "inconclusive"),
    (_lose_metric, LOOSE_LOSS, "pass"),
    (_lose_loss, LOOSE_LOSS, "inconclusive"),
    (_lose_loss, LOOSE_DROP, "pass"),
    (_break_search, LOOSE_LOSS, "fail"),
    (_break_search, LOOSE_DROP, "fail"),
    (_break_search, LOOSE_VALUE, "fail"),
    (_break_one_step, LOOSE_LOSS, "fail"),
    (_break_random, LOOSE_DROP, "fail"),
    (_random_is_worse, LOOSE_LOSS, "fail"),
    (_random_is_worse, LOOSE_DROP, "fail"),
    (_random_is_worse, LOOSE_VALUE, "fail"),
    (_one_step_is_worse, LOOSE_LOSS, "fail"),
    (_one_step_is_worse, LOOSE_DROP, "fail"),
    (_measured_in_part, LOOSE_LOSS, "inconclusive"),
    (_no_direction, LOOSE_LOSS, "inconclusive"),
    (_random_start, LOOSE_LOSS, "pass"),
    (_stopped, LOOSE_LOSS, "inconclusive"),
]


@pytest.mark.parametrize(("change", "require", "outcome"), DOUBTFUL, ids=[f"{c.__name__}-{[*r][-1]}" for c, r, _ in DOUBTFUL])
def test_one_doubtful_finding_among_good_ones_decides(change: Change, require: dict[str, Any], outcome: str) -> None:
    verdict = judge(build_changed(change, where=in_module("classifier")), require)
    assert verdict.outcome == outcome
    assert outcome == "pass" or verdict.scope == "classifier"


def test_a_failure_outweighs_a_doubt() -> None:
    report = build_changed(_lose_loss, where=in_module("classifier"))
    assert judge(report, {"loss_change_at_most": 0.5}).outcome == "fail"


def test_damage_that_is_not_finite_is_worse_than_any_number() -> None:
    verdict = judge(build_changed(_break_search, where=in_module("classifier")), {"loss_change_at_most": 0.1})
    assert (verdict.scope, verdict.observed) == ("classifier", None)
    assert "3 example" in verdict.message


def test_the_rounding_of_a_subtraction_is_no_damage() -> None:
    def drop_exactly(finding: Finding) -> None:
        finding["measured"]["metrics"]["accuracy"]["drop"] = 0.99 - 0.94  # 0.050000000000000044

    findings = build_findings()
    drop_exactly(findings[0])
    require = {"metric": "accuracy", "drop_at_most": 0.05}
    where = {"scope": "model", "epsilon": 0.1}
    findings[0]["first_order"]["metrics"]["accuracy"]["drop"] = 0.0
    assert judge(build_report(findings=findings), require, where).outcome == "pass"


def test_a_warning_warns_and_what_it_cannot_judge_stays_inconclusive() -> None:
    assert judge(build_report(), LOSS_1, severity="warning").outcome == "warn"
    assert judge(build_report(), LOSS_1, {"scope": "nope"}, severity="warning").outcome == "inconclusive"


def test_an_error_rate_rises_with_damage() -> None:
    def use_error_rate(finding: Finding) -> None:
        for part in ("first_order", "measured"):
            kept = finding[part]["metrics"].pop("accuracy")
            finding[part]["metrics"]["error_rate"] = kept | {"value": 1 - kept["value"]}
        finding["random"]["metrics"] = {"error_rate": {"worst": 0.9, "mean": 0.03}}

    report = build_changed(use_error_rate)
    report = report.model_copy(update={"clean": report.clean.model_copy(update={"metrics": {"error_rate": 0.025}})})
    where = {"scope": "classifier", "epsilon": 0.1}
    assert judge(report, {"metric": "error_rate", "drop_at_most": 0.8}, where).observed == pytest.approx(0.875)
    assert judge(report, {"metric": "error_rate", "at_most": 0.95}, where).observed == pytest.approx(0.9)


def test_names_of_a_hostile_model_are_escaped_in_messages() -> None:
    report = build_changed(lambda finding: finding["scope"].update(name="a\x1b[2Jb\u202e"), where=in_module("classifier"))
    verdict = judge(report, {"loss_change_at_most": 0.01}, {"scope": "a*"})
    assert verdict.matched == 2
    assert "\x1b" not in verdict.message
    assert "\u202e" not in verdict.message
