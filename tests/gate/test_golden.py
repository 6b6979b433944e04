"""A report of every released version is kept: it must parse and give the same verdict for ever."""

from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from gate.evaluate import evaluate
from schemas.base import canonical_bytes, compute_sha256
from schemas.policy import Policy
from schemas.report import Report
from schemas.verdict import Verdict
from schemas.version import VERSION

GOLDEN = Path(__file__).parents[1] / "golden"
VERSIONS = sorted(path.stem.removeprefix("report-") for path in GOLDEN.glob("report-*.json"))


def judge(version: str) -> Verdict:
    content = (GOLDEN / f"report-{version}.json").read_bytes()
    policy = Policy.model_validate(yaml.safe_load((GOLDEN / f"policy-{version}.yaml").read_text(encoding="utf-8")))
    report, digest = Report.model_validate_json(content), compute_sha256(content)
    return evaluate(policy, report, digest, date(2026, 6, 1), (report, digest))


def strip_wording(verdict: Verdict) -> dict[str, Any]:
    """Return all of a verdict but its sentences, which may get better."""

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: strip(entry) for name, entry in value.items() if name not in {"message", "messages", "reasons"}}
        return [strip(entry) for entry in value] if isinstance(value, list) else value

    content: dict[str, Any] = strip(verdict.model_dump(mode="json"))
    return content | {"reasons": len(verdict.reasons)}


def test_this_version_s_report_is_kept() -> None:
    assert VERSION in VERSIONS


@pytest.mark.parametrize("version", VERSIONS)
def test_an_old_report_gives_its_old_verdict(version: str) -> None:
    kept = Verdict.model_validate_json((GOLDEN / f"verdict-{version}.json").read_bytes())
    assert strip_wording(judge(version)) == strip_wording(kept)
    assert len({condition.outcome for condition in kept.conditions}) >= 3, "the golden policy should reach most outcomes"


def test_this_version_s_report_is_canonical() -> None:
    content = (GOLDEN / f"report-{VERSION}.json").read_bytes()
    assert canonical_bytes(Report.model_validate_json(content)) == content
