"""Conditions on bit flips: what was measured counts, and nothing measured is never a pass."""

from datetime import date
from typing import Any

import pytest
from pydantic import ValidationError

from gate.evaluate import evaluate
from schemas.verdict import ConditionVerdict
from tests.gate.reports import REPORT_SHA256, build_document, build_policy, build_report

DROP = {"metric": "accuracy", "drop_at_most": 0.1}
CLEAN = 0.975


def build_flips(**fields: Any) -> dict[str, Any]:
    """Return flips of which one costs 5 points of accuracy and five cost 30; ten random ones cost 1."""
    results: list[dict[str, Any]] = [
        {
            "count": count,
            "loss_change": change,
            "non_finite": None,
            "metrics": {"accuracy": {"value": CLEAN - drop, "drop": drop}},
            "flips": [],
        }
        for count, change, drop in ((1, 0.2, 0.05), (5, 1.5, 0.3))
    ]
    random = {
        "count": 5,
        "trials": 20,
        "seed": 0,
        "non_finite_trials": 0,
        "largest_loss_change": 0.05,
        "metrics": {"accuracy": {"worst": CLEAN - 0.01, "mean": CLEAN}},
    }
    flips = {
        "match": "*",
        "kind": "lower_bound",
        "weights": 100,
        "bits": 800,
        "non_finite_flips": 0,
        "results": results,
        "random": random,
        "stop_reason": "budget",
        "passes": {"forward": 45, "backward": 5},
    }
    return flips | fields


def judge(flips: list[dict[str, Any]], require: dict[str, Any], where: dict[str, Any], **more: Any) -> ConditionVerdict:
    policy = build_policy({"where": where, "require": require}, **more)
    return evaluate(policy, build_report(bit_flips=flips), REPORT_SHA256, date(2026, 6, 1)).conditions[0]


@pytest.mark.parametrize(
    ("count", "require", "outcome", "observed"),
    [
        (1, DROP, "pass", 0.05),
        (5, DROP, "fail", 0.3),
        (1, {"loss_change_at_most": 0.2}, "pass", 0.2),
        (1, {"loss_change_at_most": 0.19}, "fail", 0.2),
        (5, {"metric": "accuracy", "at_least": 0.6}, "pass", CLEAN - 0.3),
        (5, {"metric": "accuracy", "at_least": 0.7}, "fail", CLEAN - 0.3),
        (5, {"metric": "perplexity", "at_most": 2.0}, "inconclusive", None),
        (2, DROP, "inconclusive", None),
    ],
)
def test_the_worst_found_against_a_limit(count: int, require: dict[str, Any], outcome: str, observed: float | None) -> None:
    verdict = judge([build_flips()], require, {"bit_flips": count})
    assert verdict.outcome == outcome
    assert verdict.observed == (pytest.approx(observed) if observed is not None else None)
    assert verdict.matched == (0 if count == 2 else 1)


def test_the_weights_can_be_named_by_their_match() -> None:
    flips = [build_flips(), build_flips(match="head.*")]
    assert judge(flips, DROP, {"bit_flips": 1}).matched == 2
    assert judge(flips, DROP, {"bit_flips": 1, "match": "head.*"}).matched == 1
    assert judge(flips, DROP, {"bit_flips": 1, "match": "other"}).outcome == "inconclusive"


def test_random_flips_that_do_more_count_where_they_are_no_more_than_allowed() -> None:
    flips = build_flips()
    flips["random"] |= {"largest_loss_change": 9.0, "metrics": {"accuracy": {"worst": 0.1, "mean": 0.5}}}
    assert judge([flips], DROP, {"bit_flips": 1}).outcome == "pass"
    assert judge([flips], {"metric": "accuracy", "drop_at_most": 0.5}, {"bit_flips": 5}).observed == pytest.approx(CLEAN - 0.1)
    assert judge([flips], {"loss_change_at_most": 8.0}, {"bit_flips": 5}).outcome == "fail"


def test_damage_that_is_not_finite_exceeds_every_limit() -> None:
    flips = build_flips()
    flips["results"][0] |= {"loss_change": None, "non_finite": {"examples": 3}}
    assert judge([flips], {"loss_change_at_most": 1e9}, {"bit_flips": 1}).outcome == "fail"
    drawn = build_flips()
    drawn["random"]["non_finite_trials"] = 1
    assert judge([drawn], {"loss_change_at_most": 1e9}, {"bit_flips": 5}).outcome == "fail"
    assert judge([drawn], {"loss_change_at_most": 1e9}, {"bit_flips": 1}).outcome == "pass"


@pytest.mark.parametrize("doubt", [{"stop_reason": "zero_gradient"}, {"non_finite_flips": 2}])
def test_what_was_not_searched_cannot_pass_but_what_was_found_fails(doubt: dict[str, Any]) -> None:
    assert judge([build_flips(**doubt)], DROP, {"bit_flips": 1}).outcome == "inconclusive"
    assert judge([build_flips(**doubt)], DROP, {"bit_flips": 5}).outcome == "fail"


@pytest.mark.parametrize("count", [1, 5])
def test_of_a_sample_flips_decide_nothing_but_what_is_not_finite(count: int) -> None:
    subject = build_document()["subject"]
    sampled = subject | {"data": subject["data"] | {"sampled": True}}
    policy = build_policy({"where": {"bit_flips": count}, "require": DROP})
    flips, broken = build_flips(), build_flips()
    broken["random"]["non_finite_trials"] = 1
    report = build_report(bit_flips=[flips], subject=sampled)
    assert evaluate(policy, report, REPORT_SHA256, date(2026, 6, 1)).conditions[0].outcome == "inconclusive"
    report = build_report(bit_flips=[broken], subject=sampled)
    wanted = "fail" if count == 5 else "inconclusive"
    assert evaluate(policy, report, REPORT_SHA256, date(2026, 6, 1)).conditions[0].outcome == wanted


def test_findings_are_not_read_by_a_condition_on_flips() -> None:
    verdict = judge([build_flips()], {"loss_change_at_most": 0.2}, {"bit_flips": 1})
    assert (verdict.outcome, verdict.finding, verdict.scope) == ("pass", None, "*")


def test_a_waiver_covers_the_flips_of_a_match() -> None:
    waiver = {"condition": "c1", "scope": "*", "reason": "known", "owner": "ml", "expires": "2026-06-01"}
    assert judge([build_flips()], DROP, {"bit_flips": 5}, waivers=[waiver]).outcome == "warn"


@pytest.mark.parametrize(
    ("where", "require"),
    [
        ({"match": "*"}, DROP),
        ({"bit_flips": 1, "scope": "model"}, DROP),
        ({"bit_flips": 1, "norm": 2}, DROP),
        ({"bit_flips": 0}, DROP),
        ({"bit_flips": 1}, {"breaking_point_at_least": 3}),
    ],
)
def test_what_flips_do_not_have_is_refused(where: dict[str, Any], require: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        build_policy({"where": where, "require": require})


def test_flips_that_were_seen_on_a_sample_only_are_no_pass() -> None:
    report = build_report(bit_flips=[build_flips(kind="estimate")])
    data = report.subject.data.model_copy(update={"sampled": True})
    sampled = report.model_copy(update={"subject": report.subject.model_copy(update={"data": data})})
    policy = build_policy({"where": {"bit_flips": 1}, "require": DROP})
    assert evaluate(policy, sampled, REPORT_SHA256, date(2026, 6, 1)).conditions[0].outcome == "inconclusive"
