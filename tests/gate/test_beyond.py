"""Conditions on held-out data: the limits decide, at the policy's confidence, and asymptotic ones never acquit."""

from datetime import date
from typing import Any

import pytest

from gate.evaluate import evaluate
from schemas.policy import Policy
from tests.gate.reports import REPORT_SHA256, Finding, build_changed

TODAY = date(2026, 6, 1)


def limits(lower: float | None, upper: float | None, method: str = "betting", confidence: float = 0.95) -> dict[str, Any]:
    asymptotic = method == "asymptotic_t"
    return {
        "lower": lower,
        "upper": upper,
        "confidence": confidence,
        "method": method,
        "population": None,
        "sample": 400,
        "asymptotic": asymptotic,
    }


def judge(require: dict[str, Any], held_out: dict[str, Any], **condition: Any) -> tuple[str, str]:
    """Return outcome and sentence of one condition on the whole model at epsilon 0.1."""

    def change(finding: Finding) -> None:
        metrics = {"accuracy": held_out["accuracy"]} if "accuracy" in held_out else {}
        finding["held_out"] = {
            "examples": 400,
            "loss_change": held_out.get("loss_change", 0.2),
            "interval": held_out.get("interval"),
            "metrics": metrics,
        }

    policy = {"id": "c", "where": {"scope": "model", "epsilon": 0.1}, "require": require, **condition}
    extra = {"confidence": condition.pop("policy_confidence")} if "policy_confidence" in condition else {}
    policy.pop("policy_confidence", None)
    parsed = Policy.model_validate({"name": "p", "conditions": [policy], **extra})
    verdict = evaluate(parsed, build_changed(change), REPORT_SHA256, TODAY)
    return verdict.conditions[0].outcome, verdict.conditions[0].message


def accuracy(value: dict[str, Any] | None, drop: dict[str, Any] | None) -> dict[str, Any]:
    return {"accuracy": {"value": 0.8, "value_interval": value, "drop": 0.1, "drop_interval": drop}}


DROP = {"metric": "accuracy", "drop_at_most": 0.12}
LEAST = {"metric": "accuracy", "at_least": 0.75}
LOSS = {"loss_change_at_most": 0.3}


@pytest.mark.parametrize(
    ("require", "held_out", "outcome"),
    [
        (DROP, accuracy(None, limits(0.08, 0.12)), "pass"),
        (DROP, accuracy(None, limits(0.08, 0.13)), "inconclusive"),
        (DROP, accuracy(None, limits(0.121, 0.2)), "fail"),
        (DROP, accuracy(None, limits(None, 0.11)), "pass"),
        (DROP, accuracy(None, None), "inconclusive"),
        (LEAST, accuracy(limits(0.75, 0.85), None), "pass"),
        (LEAST, accuracy(limits(0.74, 0.85), None), "inconclusive"),
        (LEAST, accuracy(limits(0.60, 0.749), None), "fail"),
        (LOSS, {"interval": limits(0.1, 0.25, "asymptotic_t")}, "inconclusive"),
        (LOSS, {"interval": limits(0.31, None, "asymptotic_t")}, "fail"),
        (LOSS, {"interval": None, "loss_change": None}, "fail"),
        (DROP, accuracy(None, limits(0.08, 0.12)) | {"loss_change": None}, "fail"),
        ({"metric": "error_rate", "drop_at_most": 0.1}, accuracy(None, None), "inconclusive"),
    ],
)
def test_limits_decide(require: dict[str, Any], held_out: dict[str, Any], outcome: str) -> None:
    assert judge(require, held_out)[0] == outcome


@pytest.mark.parametrize(
    ("undecided", "outcome"), [("inconclusive", "inconclusive"), ("fail", "fail"), ("warn", "warn"), ("pass", "pass")]
)
def test_the_condition_says_what_a_threshold_between_the_limits_means(undecided: str, outcome: str) -> None:
    between, clear = accuracy(None, limits(0.08, 0.13)), accuracy(None, limits(0.13, 0.2))
    assert judge(DROP, between, undecided=undecided)[0] == outcome
    assert judge(DROP, clear, undecided=undecided)[0] == "fail"


def test_limits_of_a_lower_confidence_than_the_policy_s_decide_nothing() -> None:
    weak = accuracy(None, limits(0.0, 0.01, confidence=0.9))
    outcome, message = judge(DROP, weak, undecided="pass")
    assert outcome == "inconclusive"
    assert "set confidence to 0.95" in message
    assert judge(DROP, weak, policy_confidence=0.9)[0] == "pass"


def test_the_sentence_gives_figure_limits_and_examples() -> None:
    _, message = judge(DROP, accuracy(None, limits(0.08, 0.12)))
    assert "accuracy drop of 0.1 on 400 held-out examples" in message
    assert "between 0.08 and 0.12, each with confidence 0.95" in message
    assert "the limit is 0.12" in message


def test_a_condition_that_a_loss_cannot_pass_says_so() -> None:
    _, message = judge(LOSS, {"interval": limits(0.1, 0.25, "asymptotic_t")})
    assert "gate on a metric" in message
