"""A pass is certified only where upper bounds prove every condition, for everything that it reads."""

from datetime import date
from typing import Any

import pytest

from gate.evaluate import evaluate
from schemas.policy import Policy
from schemas.report import Report
from tests.gate.reports import DAMAGE, REPORT_SHA256, Finding, build_changed

TODAY = date(2026, 6, 1)
MODEL_AT_SMALL = {"scope": "model", "epsilon": 0.1}
WORST = DAMAGE["model"]


def bound(loss_change: float | None, drop: float | None = None) -> dict[str, Any]:
    """Return a finding's upper bound."""
    known = loss_change is not None
    return {
        "loss_change": loss_change,
        "kind": "upper_bound",
        "status": "available" if known else "not_available",
        "reason": None if known else "step 3 (Softmax) is covered by no rule",
        "metrics": {} if drop is None else {"accuracy": drop},
    }


def build_bounded(given: dict[str, Any] | None) -> Report:
    """Return the report with the same bound on every finding."""

    def change(finding: Finding) -> None:
        finding["upper_bound"] = given

    return build_changed(change)


def judge(report: Report, *conditions: dict[str, Any]) -> tuple[str, str]:
    policy = Policy.model_validate(
        {"schema_version": 1, "name": "p", "conditions": [{"id": f"c{i}", **part} for i, part in enumerate(conditions)]}
    )
    verdict = evaluate(policy, report, REPORT_SHA256, TODAY)
    return verdict.outcome, verdict.assurance


LOSS = {"where": MODEL_AT_SMALL, "require": {"loss_change_at_most": 1.0}}
DROP = {"where": MODEL_AT_SMALL, "require": {"metric": "accuracy", "drop_at_most": 0.3}}
LEAST = {"where": MODEL_AT_SMALL, "require": {"metric": "accuracy", "at_least": 0.7}}
POINT = {"require": {"breaking_point_at_least": 0.02}}


@pytest.mark.parametrize(
    ("given", "conditions", "expected"),
    [
        (bound(0.95, 0.25), [LOSS], ("pass", "certified")),
        (bound(0.95, 0.25), [LOSS, DROP, LEAST], ("pass", "certified")),
        (bound(1.01, 0.25), [LOSS], ("pass", "searched")),
        (bound(0.95, 0.31), [DROP], ("pass", "searched")),
        (bound(0.95, 0.28), [LEAST], ("pass", "searched")),
        (bound(0.95), [DROP], ("pass", "searched")),
        (bound(None), [LOSS], ("pass", "searched")),
        (None, [LOSS], ("pass", "searched")),
        (bound(0.95, 0.25), [LOSS, POINT], ("pass", "searched")),
        (bound(0.0, 0.0), [{"where": MODEL_AT_SMALL, "require": {"loss_change_at_most": WORST / 2}}], ("fail", "searched")),
        (
            bound(0.0, 0.0),
            [{"where": {"scope": "nowhere"}, "require": {"loss_change_at_most": 1.0}}],
            ("inconclusive", "searched"),
        ),
    ],
)
def test_assurance(given: dict[str, Any] | None, conditions: list[dict[str, Any]], expected: tuple[str, str]) -> None:
    assert judge(build_bounded(given), *conditions) == expected


def test_one_finding_without_a_bound_takes_the_certainty() -> None:
    def change(finding: Finding) -> None:
        finding["upper_bound"] = bound(3.9) if finding["id"] != "f-0002" else None

    condition = {"where": {"scope": "model"}, "require": {"loss_change_at_most": 4.0}}
    assert judge(build_changed(change), condition) == ("pass", "searched")
    assert judge(build_bounded(bound(3.9)), condition) == ("pass", "certified")
