"""AuditHandle against the real API."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from client.api import Client
from client.errors import AuditFailed, GaveUp, Refused
from schemas.base import canonical_bytes, compute_sha256
from schemas.errors import InvalidRequest
from schemas.policy import Policy
from service.openapi import examples
from tests.client.conftest import POLICIES
from tests.project.tree import ROOT

MODEL, DATA = Path("model.onnx"), Path("data.npz")


def test_an_audit_from_files_to_verdict(client: Client) -> None:
    seen: list[str] = []
    audit = client.audit(MODEL, DATA, policy=Path("fail.yaml"), fresh=True, labels={"play": "linger"})
    assert not audit.has_ended
    assert audit.wait(20, lambda job: seen.append(job.state)) is audit
    assert {"running", "succeeded"} <= set(seen)
    report = audit.report()
    assert report.subject.model.sha256 == compute_sha256(MODEL.read_bytes())
    assert audit.fetch().sha256 == compute_sha256(canonical_bytes(report))
    assert audit.verdict().outcome == "fail"
    assert audit.has_ended


@pytest.mark.parametrize("outcome", POLICIES)
def test_another_policy_may_be_a_file_a_document_or_itself(client: Client, outcome: str) -> None:
    audit = client.audit(MODEL, DATA)
    document = {"name": outcome, "conditions": POLICIES[outcome]}
    for policy in (Path(f"{outcome}.yaml"), document, Policy.model_validate(document)):
        assert audit.verdict(policy).outcome == outcome
    assert audit.verdict(document, baseline=audit).outcome == outcome


def test_files_may_be_references_and_have_options(client: Client) -> None:
    model = client.upload(MODEL)
    audit = client.audit(model, DATA, data_options={"target": "y"}, model_options={"format": "onnx"}, labels={"play": "leave"})
    with pytest.raises(GaveUp):
        audit.wait(0)
    assert audit.cancel().state == "cancelled"


def test_an_audit_that_fails_is_an_error_with_its_own_problem(client: Client) -> None:
    audit = client.audit(MODEL, DATA, fresh=True, labels={"play": "fail"})
    with pytest.raises(AuditFailed) as caught:
        audit.report(20)
    assert caught.value.problem.code == "model_unreadable"
    assert client.find_audit(audit.id).state == "failed"


def test_a_wrong_request_is_told_before_anything_is_posted(client: Client) -> None:
    with pytest.raises(InvalidRequest):
        client.audit(MODEL, DATA, sets=[{"norm": 0}])
    with pytest.raises(Refused):
        client.find_audit("no-such-audit")


def test_one_key_is_one_audit_over_several_calls(client: Client) -> None:
    first, second = (client.audit(MODEL, DATA, fresh=True, idempotency_key="one-for-both") for _ in range(2))
    assert first.id == second.id
    assert client.audit(MODEL, DATA, fresh=True).id != first.id


class Flaky(ThreadingHTTPServer):
    """Takes every submission and answers the first ones as a server that is too busy."""

    def __init__(self, refusals: int) -> None:
        self.left = refusals
        self.keys: list[str] = []
        super().__init__(("127.0.0.1", 0), FlakyAnswer)


class FlakyAnswer(BaseHTTPRequestHandler):
    server: Flaky

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.server.keys.append(self.headers["idempotency-key"])
        self.server.left -= 1
        body = json.dumps(examples.QUEUED_JOB).encode()
        self.send_response(429 if self.server.left >= 0 else 202)
        self.send_header("retry-after", "1")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def running_flaky(refusals: int) -> Iterator[Flaky]:
    with Flaky(refusals) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def test_a_submission_is_repeated_after_the_time_that_the_server_asks_for_and_under_one_key() -> None:
    named = "artifact:sha256:" + "0" * 64
    with running_flaky(2) as server, Client(f"http://127.0.0.1:{server.server_port}") as client:
        audit = client.audit(named, named)
    assert audit.id == examples.AUDIT_ID
    assert len(server.keys) == 3
    assert len(set(server.keys)) == 1
    assert server.keys[0]


def test_the_example_of_the_documentation_runs(server: str, folder: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/client.md").read_text(encoding="utf-8"), re.DOTALL)
    (folder / "digits.npz").write_bytes((folder / "data.npz").read_bytes())
    (folder / "policy.yaml").write_bytes((folder / "pass.yaml").read_bytes())
    code = code.replace("http://127.0.0.1:8321", server)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "verdict: pass" in done.stdout
