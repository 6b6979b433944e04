"""The shipped policy passes the sturdy network and fails the brittle one, each condition for its own reason."""

from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from gate.evaluate import evaluate
from schemas.base import compute_sha256
from schemas.policy import Policy
from schemas.request import AuditRequest
from schemas.verdict import Verdict
from tests.examples.artifacts import ARTIFACTS, EXAMPLES
from worker.audit import AuditInput, measure_audit
from worker.report import assemble_report

DIGEST = "0" * 64


def load(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((EXAMPLES / name).read_text(encoding="utf-8"))
    return document


def audit(model: Path, scratch: Path) -> Verdict:
    """Judge an audit by request.yaml without its trials and its 100-weight sets, which the policy does not need."""
    data = ARTIFACTS / "digits.npz"
    document = load("request.yaml")
    document["model"], document["data"] = [
        {"uri": f"artifact:sha256:{compute_sha256(path.read_bytes())}"} for path in (model, data)
    ]
    document["sets"][0]["max_corrupted"] = [None]
    document["search"]["random_trials"] = 0
    request = AuditRequest.model_validate(document)
    measured = measure_audit(AuditInput(request, model, data, scratch), lambda *_: None)
    report = assemble_report(request, DIGEST, measured, model.stat().st_size, {})
    return evaluate(Policy.model_validate(load("policy.yaml")), report, DIGEST, date(2026, 1, 1))


@pytest.mark.parametrize(("name", "outcome"), [("digits_cnn", "fail"), ("digits_cnn_sturdy", "pass")])
def test_the_policy_tells_brittle_from_sturdy(name: str, outcome: str, tmp_path: Path) -> None:
    verdict = audit(ARTIFACTS / f"{name}.onnx", tmp_path)
    assert verdict.outcome == outcome
    assert {condition.id: condition.outcome for condition in verdict.conditions} == {
        "whole-model": outcome,
        "no-weak-layer": outcome,
        "breaking-point": outcome,
    }
    assert all(requirement.met for requirement in verdict.requires)


def test_the_request_asks_for_what_the_policy_reads() -> None:
    uri = {"uri": f"artifact:sha256:{DIGEST}"}
    request = AuditRequest.model_validate(load("request.yaml") | {"model": uri, "data": uri, "policy": load("policy.yaml")})
    assert isinstance(request.policy, Policy)
    assert request.policy.requires.search is not None
    assert request.search.method == request.policy.requires.search.method
    assert request.search.budget_passes >= (request.policy.requires.search.budget_passes_at_least or 0)
    kinds = {condition.where.scope for condition in request.policy.conditions}
    assert kinds == set(request.scopes)
