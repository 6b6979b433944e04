import json
import logging
import time
from pathlib import Path

import httpx2
import pytest

from schemas.base import compute_sha256
from service.openapi import examples
from service.submission import ring
from storage.doorbell import Doorbell
from tests.service import documents
from tests.service.conftest import Worker, upload
from tests.service.problems import read_problem


def test_a_doorbell_that_does_not_ring_is_a_line_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    doorbell = Doorbell(f"unix://{tmp_path}/nobody.sock")
    start = time.monotonic()
    with caplog.at_level(logging.WARNING):
        ring(doorbell, "0644c8b2", "cpu")
    doorbell.close()
    assert time.monotonic() - start < 5
    assert "0644c8b2" in caplog.text


def test_a_policy_that_was_uploaded_is_read_when_the_audit_is_posted(http: httpx2.Client) -> None:
    for content in (documents.MODEL, documents.DATA):
        upload(http, content)
    for content, faults in ((b"{}", 1), (b"name: gate", 1), (json.dumps(examples.POLICY).encode(), 0)):
        upload(http, content)
        policy = {"uri": f"artifact:sha256:{compute_sha256(content)}"}
        response = http.post("/v1/audits", json=documents.build_request(policy=policy))
        if faults:
            problem = read_problem(response, 422)
            assert {error.where for error in problem.errors} == {"/policy/uri"}
        else:
            assert response.status_code == 202
    missing = documents.build_request(policy={"uri": "artifact:sha256:" + "0" * 64})
    assert [error.where for error in read_problem(http.post("/v1/audits", json=missing), 422).errors] == ["/policy/uri"]
    wrong = documents.build_request(policy={"name": "gate", "conditions": 1})
    assert [error.where for error in read_problem(http.post("/v1/audits", json=wrong), 422).errors] == ["/policy/conditions"]


def test_a_report_that_is_there_waits_for_a_policy_in_a_file(http: httpx2.Client, worker: Worker) -> None:
    for content in (documents.MODEL, documents.DATA):
        upload(http, content)
    content = json.dumps(examples.POLICY).encode()
    upload(http, content)
    first = http.post("/v1/audits", json=documents.build_request()).json()
    worker.succeed(first["id"])
    request = documents.build_request(policy={"uri": f"artifact:sha256:{compute_sha256(content)}"})
    second = http.post("/v1/audits", json=request).json()
    assert second["state"] == "queued"
    read_problem(http.get(f"/v1/audits/{second['id']}/verdict"), 409)
    worker.succeed(second["id"], "fail")
    verdict = http.get(f"/v1/audits/{second['id']}/verdict")
    assert (verdict.status_code, verdict.json()["policy_name"]) == (200, examples.POLICY["name"])
