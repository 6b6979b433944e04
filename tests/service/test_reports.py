import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from schemas.base import canonical_bytes, compute_sha256
from schemas.verdict import Verdict
from tests.service import documents
from tests.service.conftest import Worker
from tests.service.problems import read_problem

Submit = Callable[..., dict[str, Any]]


@pytest.fixture
def job(submit: Submit, worker: Worker) -> dict[str, Any]:
    made = submit(policy=documents.STRICT)
    worker.succeed(made["id"], verdict="fail")
    return made


def test_the_report_is_its_canonical_bytes(http: httpx2.Client, job: dict[str, Any]) -> None:
    response = http.get(f"{job['links']['self']}/report")
    assert response.content == documents.REPORT
    assert response.headers["etag"] == f'"{documents.REPORT_SHA256}"'
    assert response.headers["content-type"] == "application/json"
    again = http.get(f"{job['links']['self']}/report?format=json", headers={"If-None-Match": response.headers["etag"]})
    assert again.status_code == 304


def test_the_report_has_no_other_representation_yet(http: httpx2.Client, job: dict[str, Any]) -> None:
    path = f"{job['links']['self']}/report"
    assert read_problem(http.get(path, headers={"Accept": "text/html"}), 406).errors[0].where == "header: Accept"
    assert read_problem(http.get(f"{path}?format=html"), 422).errors[0].where == "query: format"
    assert http.get(f"{path}?format=json", headers={"Accept": "text/html"}).status_code == 200


def test_a_report_is_not_there_before_the_end(http: httpx2.Client, submit: Submit) -> None:
    path = submit(policy=documents.STRICT)["links"]["self"]
    for part in ("report", "verdict"):
        problem = read_problem(http.get(f"{path}/{part}"), 409)
        assert (problem.code, problem.errors[0].got) == ("conflict", "queued")


def test_a_report_that_the_store_lost_is_no_crash(http: httpx2.Client, job: dict[str, Any], data_dir: Path) -> None:
    stored = data_dir / "artifacts" / "local" / documents.REPORT_SHA256[:2] / documents.REPORT_SHA256
    stored.unlink()
    response = http.get(f"{job['links']['self']}/report")
    assert documents.REPORT_SHA256 in read_problem(response, 503).errors[0].expected
    assert response.headers["retry-after"]


def test_the_verdict_of_an_audit_is_that_of_its_policy(http: httpx2.Client, job: dict[str, Any]) -> None:
    verdict = Verdict.model_validate_json(http.get(f"{job['links']['self']}/verdict").content)
    assert verdict.outcome == "fail"
    assert verdict.policy_name == "strict"
    assert verdict.report_sha256 == documents.REPORT_SHA256
    shown = http.get(job["links"]["self"]).json()["verdict"]
    assert shown == {"outcome": "fail", "url": f"{job['links']['self']}/verdict"}


def test_without_a_policy_there_is_no_verdict(http: httpx2.Client, submit: Submit, worker: Worker) -> None:
    made = submit()
    worker.succeed(made["id"])
    assert read_problem(http.get(f"{made['links']['self']}/verdict"), 404).errors[0].where == "path: audit_id"


@pytest.mark.parametrize(("policy", "outcome"), [(documents.STRICT, "fail"), (documents.LENIENT, "pass")])
def test_any_policy_judges_a_stored_or_a_posted_report_alike(
    http: httpx2.Client, job: dict[str, Any], policy: dict[str, Any], outcome: str
) -> None:
    stored = http.post("/v1/verdicts", json={"policy": policy, "audit_id": job["id"]})
    posted = http.post("/v1/verdicts", json={"policy": policy, "report": json.loads(documents.REPORT)})
    assert stored.status_code == posted.status_code == 200
    assert stored.json() == posted.json()
    assert stored.json()["outcome"] == outcome


def test_a_posted_report_is_named_by_the_bytes_that_were_posted(http: httpx2.Client) -> None:
    newer = {**json.loads(documents.REPORT), "a_field_of_a_later_version": 1.0}
    digest = compute_sha256(canonical_bytes(newer))
    assert http.post("/v1/verdicts", json={"policy": documents.STRICT, "report": newer}).json()["report_sha256"] == digest


def test_a_baseline_is_a_report_or_an_audit(http: httpx2.Client, job: dict[str, Any]) -> None:
    policy = {**documents.LENIENT, "regression": {"loss_change_ratio_at_most": 1.5}}
    answers = [
        http.post("/v1/verdicts", json={"policy": policy, "audit_id": job["id"], "baseline": baseline}).json()
        for baseline in (job["id"], json.loads(documents.REPORT), None)
    ]
    assert answers[0] == answers[1]
    assert answers[0]["regression"]["baseline_sha256"] == documents.REPORT_SHA256
    assert answers[0]["outcome"] == "pass"
    assert answers[2]["outcome"] != "pass"


def test_every_audit_that_a_verdict_needs_and_is_not_there_is_named(http: httpx2.Client) -> None:
    response = http.post("/v1/verdicts", json={"policy": documents.STRICT, "audit_id": "a", "baseline": "b"})
    assert [(item.where, item.got) for item in read_problem(response, 422).errors] == [("/audit_id", "a"), ("/baseline", "b")]


def test_a_verdict_needs_an_audit_that_succeeded(http: httpx2.Client, submit: Submit) -> None:
    made = submit()
    response = http.post("/v1/verdicts", json={"policy": documents.STRICT, "audit_id": made["id"]})
    assert read_problem(response, 409).code == "conflict"
