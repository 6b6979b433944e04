"""Waivers: by condition and scope, until a date, for one model if pinned; never for what could not be judged."""

import json
from datetime import date
from typing import Any

import pytest
from pydantic import ValidationError

from gate.evaluate import evaluate
from schemas.policy import Waiver
from schemas.report import Report
from schemas.verdict import Verdict
from tests.gate.reports import MODEL_SHA256, REPORT_SHA256, build_changed, build_policy, build_report

TODAY = date(2026, 6, 1)
WAIVER = {"condition": "c1", "scope": "features.3", "reason": "retraining in progress", "owner": "ml", "expires": "2026-06-01"}


def judge(*waivers: dict[str, Any], limit: float = 1.0, report: Report | None = None) -> Verdict:
    """Judge modules at epsilon 0.3, where features.3 has a loss change of 2.4 and features.0 of 0.8."""
    condition = {"where": {"scope": "per_module", "epsilon": 0.3}, "require": {"loss_change_at_most": limit}}
    policy = build_policy(condition, waivers=[WAIVER | waiver for waiver in waivers])
    return evaluate(policy, report or build_report(), REPORT_SHA256, TODAY)


@pytest.mark.parametrize(
    ("waiver", "outcome", "expired"),
    [
        ({}, "warn", 0),
        ({"scope": None}, "warn", 0),
        ({"scope": "features.*"}, "warn", 0),
        ({"scope": "per_module"}, "warn", 0),
        ({"scope": "model"}, "fail", 0),
        ({"scope": "features.0"}, "fail", 0),
        ({"expires": "2026-05-31"}, "fail", 1),
        ({"expires": "2027-01-01"}, "warn", 0),
        ({"model_sha256": MODEL_SHA256}, "warn", 0),
        ({"model_sha256": "0" * 64}, "fail", 0),
    ],
)
def test_a_waiver_counts_for_its_scope_time_and_model(waiver: dict[str, Any], outcome: str, expired: int) -> None:
    verdict = judge(waiver)
    assert verdict.outcome == outcome
    assert len(verdict.expired_waivers) == expired
    assert verdict.conditions[0].waived_by == ("ml" if outcome == "warn" else None)


def test_a_waived_condition_names_who_and_why_and_until_when() -> None:
    message = judge({}).conditions[0].message
    assert "Waived by ml until 2026-06-01 (retraining in progress)." in message
    assert "2.4" in message


def test_what_no_waiver_covers_still_fails() -> None:
    verdict = judge({}, limit=0.5)
    assert (verdict.outcome, verdict.conditions[0].scope) == ("fail", "features.0")
    assert "Besides, 1 failing match(es) are waived by ml" in verdict.conditions[0].message


def test_two_waivers_may_cover_one_condition() -> None:
    verdict = judge({}, {"scope": "features.0", "owner": "vision"}, limit=0.5)
    assert (verdict.outcome, verdict.conditions[0].waived_by) == ("warn", "ml, vision")


def test_a_waiver_changes_nothing_about_a_condition_that_holds() -> None:
    verdict = judge({}, limit=5.0)
    assert (verdict.outcome, verdict.conditions[0].waived_by) == ("pass", None)


def test_what_could_not_be_judged_cannot_be_waived() -> None:
    report = build_changed(lambda finding: finding["measured"].update(loss_change=None))
    assert judge({"scope": None}, report=report).outcome == "inconclusive"


def test_an_expired_waiver_is_listed_with_its_owner() -> None:
    [expired] = judge({"expires": "2026-05-31"}).expired_waivers
    assert (expired.condition, expired.scope, expired.owner, expired.expires) == ("c1", "features.3", "ml", date(2026, 5, 31))


def test_a_waiver_for_another_model_is_told() -> None:
    [reason] = judge({"model_sha256": "0" * 64}).reasons
    assert "does not count" in reason
    assert "0" * 64 in reason


@pytest.mark.parametrize("day", ["2027-01-31T00:00:00", "20270131", 86400, None])
def test_an_end_is_a_day_and_nothing_that_could_be_read_as_one(day: object) -> None:
    with pytest.raises(ValidationError, match="YYYY-MM-DD"):
        Waiver.model_validate_json(json.dumps({"condition": "c", "reason": "r", "owner": "o", "expires": day}))
