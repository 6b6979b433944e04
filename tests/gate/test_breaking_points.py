"""Conditions on breaking points: only `hi` proves, and nothing is said of epsilons that nobody tried."""

from datetime import date
from typing import Any

import pytest
from pydantic import ValidationError

from gate.evaluate import RANK, evaluate
from schemas.verdict import ConditionVerdict
from tests.gate.reports import REPORT_SHA256, build_point, build_policy, build_report


def judge(points: list[dict[str, Any]], threshold: float, **where: Any) -> ConditionVerdict:
    named = {name: where.pop(name) for name in ("metric", "along", "limit") if name in where}
    policy = build_policy({"where": where, "require": {"breaking_point_at_least": threshold} | named})
    return evaluate(policy, build_report(breaking_points=points), REPORT_SHA256, date(2026, 6, 1)).conditions[0]


BRACKETS: list[tuple[float | None, float | None, float, str]] = [
    (0.98, 1.0, 2.0, "fail"),  # crossed below the threshold: proved
    (0.98, 1.0, 1.0001, "fail"),
    (0.98, 1.0, 1.0, "pass"),  # nothing found below hi, and lo is next to it
    (0.98, 1.0, 0.99, "pass"),
    (0.98, 1.0, 0.98, "pass"),
    (0.98, 1.0, 0.1, "pass"),
    (0.5, 2.0, 0.4, "pass"),
    (0.5, 2.0, 0.54, "pass"),
    (0.5, 2.0, 0.6, "inconclusive"),  # between lo and the threshold nobody looked
    (0.5, 2.0, 2.0, "inconclusive"),
    (0.5, 2.0, 2.1, "fail"),
    (None, 1.0, 0.5, "inconclusive"),  # crossed at the range's start: nothing below was tried
    (None, 1.0, 1.0, "inconclusive"),
    (None, 1.0, 1.1, "fail"),
    (100.0, None, 100.0, "pass"),  # never crossed up to the range's end
    (100.0, None, 1.0, "pass"),
    (100.0, None, 100.1, "inconclusive"),
    (None, None, 1.0, "inconclusive"),
]


@pytest.mark.parametrize(("lo", "hi", "threshold", "outcome"), BRACKETS)
def test_bracket_against_threshold(lo: float | None, hi: float | None, threshold: float, outcome: str) -> None:
    verdict = judge([build_point(lo, hi)], threshold)
    assert verdict.outcome == outcome
    assert verdict.observed == (hi if hi is not None else lo)
    assert verdict.threshold == threshold


@pytest.mark.parametrize(("lo", "hi"), sorted({(lo, hi) for lo, hi, _, _ in BRACKETS if lo is not None}, key=str))
def test_a_higher_threshold_never_helps(lo: float, hi: float | None) -> None:
    ranks = [RANK[judge([build_point(lo, hi)], 0.01 * 1.1**step).outcome] for step in range(110)]
    assert ranks == sorted(ranks)


def test_reached_without_a_place_is_inconclusive() -> None:
    assert judge([build_point(1.0, None) | {"reached": True}], 0.5).outcome == "inconclusive"


def test_the_lowest_breaking_point_decides() -> None:
    verdict = judge([build_point(9.8, 10.0), build_point(0.98, 1.0, "features.3"), build_point(100.0, None, "classifier")], 5.0)
    assert (verdict.outcome, verdict.scope, verdict.observed, verdict.matched) == ("fail", "features.3", 1.0, 3)


@pytest.mark.parametrize(
    ("where", "matched"),
    [
        ({}, 2),
        ({"scope": "model"}, 1),
        ({"scope": "per_module"}, 1),
        ({"scope": "features.*"}, 1),
        ({"norm": 2}, 2),
        ({"norm": "inf"}, 0),
        ({"scale": "absolute"}, 2),
        ({"max_corrupted": 10}, 0),
        ({"metric": "accuracy"}, 2),
        ({"metric": "perplexity"}, 0),
    ],
)
def test_where_picks_breaking_points_and_none_is_inconclusive(where: dict[str, Any], matched: int) -> None:
    verdict = judge([build_point(9.8, 10.0), build_point(9.8, 10.0, "features.3")], 1.0, **where)
    assert verdict.matched == matched
    assert verdict.outcome == ("pass" if matched else "inconclusive")


def test_a_breaking_point_can_be_waived() -> None:
    waiver = {"condition": "c1", "scope": "model", "reason": "known", "owner": "ml", "expires": "2026-06-01"}
    policy = build_policy({"require": {"breaking_point_at_least": 5.0}}, waivers=[waiver])
    verdict = evaluate(policy, build_report(), REPORT_SHA256, date(2026, 6, 1)).conditions[0]
    assert (verdict.outcome, verdict.waived_by) == ("warn", "ml")


FEW: dict[str, Any] = {"along": "max_corrupted", "set": {"norm": 2.0, "epsilon": 0.3, "scale": "absolute"}}


@pytest.mark.parametrize(
    ("lo", "hi", "threshold", "outcome"),
    [
        (9.0, 10.0, 11.0, "fail"),
        (9.0, 10.0, 10.0, "pass"),  # neighbours: nobody can look between
        (1.0, 2.0, 2.0, "pass"),
        (1.0, 3.0, 3.0, "inconclusive"),
        (50.0, 52.0, 52.0, "pass"),  # within the bisection's resolution
        (15.0, None, 15.0, "pass"),
        (15.0, None, 16.0, "inconclusive"),
    ],
)
def test_a_number_of_weights_against_its_threshold(lo: float, hi: float | None, threshold: float, outcome: str) -> None:
    verdict = judge([build_point(lo, hi, **FEW)], threshold, along="max_corrupted")
    assert verdict.outcome == outcome
    assert "corrupted weight" in verdict.message
    assert "epsilon 0.3" in verdict.message


def test_a_condition_reads_only_breaking_points_along_what_it_names() -> None:
    points = [build_point(0.98, 1.0), build_point(9.0, 10.0, **FEW)]
    assert judge(points, 0.9).matched == 1
    assert judge(points, 5.0).outcome == "fail"
    found = judge(points, 5.0, along="max_corrupted")
    assert (found.matched, found.outcome, found.observed) == (1, "pass", 10.0)
    assert judge(points, 5.0, along="max_corrupted", epsilon=0.3).matched == 1
    assert judge(points, 5.0, along="max_corrupted", epsilon=0.4).outcome == "inconclusive"


@pytest.mark.parametrize(
    ("limit", "matched"),
    [
        ({"metric": "accuracy", "drop": 0.05}, 1),
        ({"metric": "accuracy", "drop": 0.5}, 1),
        ({"metric": "accuracy", "drop": 0.06}, 0),
        ({"metric": "error_rate", "drop": 0.05}, 0),
        ({"loss_change": 1.0}, 1),
        ({"loss_change": 0.05}, 0),
    ],
)
def test_a_condition_can_pin_the_limit_that_it_is_about(limit: dict[str, Any], matched: int) -> None:
    others = [{"metric": "accuracy", "drop": 0.5}, {"loss_change": 1.0}]
    points = [build_point(9.8, 10.0), *(build_point(9.8, 10.0, limit=other) for other in others)]
    verdict = judge(points, 1.0, limit=limit)
    assert verdict.matched == matched
    assert verdict.outcome == ("pass" if matched else "inconclusive")


@pytest.mark.parametrize(
    "require",
    [
        {"loss_change_at_most": 1.0, "along": "max_corrupted"},
        {"loss_change_at_most": 1.0, "limit": {"loss_change": 1.0}},
        {"breaking_point_at_least": 1.0, "metric": "accuracy", "limit": {"metric": "accuracy", "drop": 0.05}},
        {"breaking_point_at_least": 1.0, "limit": {"metric": "accuracy"}},
    ],
)
def test_what_names_no_breaking_point_is_refused(require: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        build_policy({"require": require})


def test_what_is_looked_for_cannot_be_given() -> None:
    with pytest.raises(ValidationError, match="max_corrupted"):
        build_policy({"where": {"max_corrupted": 5}, "require": {"breaking_point_at_least": 5, "along": "max_corrupted"}})
