"""One job from POST to report through real processes: its trace at a collector, its lines in two logs, and what is in neither."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from schemas.base import compute_sha256
from telemetry.traceparent import TraceParent
from tests.project.tree import ROOT
from tests.service.conftest import upload
from tests.service.running import running_process
from tests.storage.valkey import running_valkey
from tests.telemetry.collector import Collector, running_collector
from tests.worker.process.fleet import open_fleet
from tests.worker.process.processes import eventually

FAREWELL = "worker: Warm shutdown (MainProcess)"
CANARY = "canary-4c1d"
SETTINGS = {
    "FAULTLINE_LOG_FORMAT": "json",
    "FAULTLINE_LOG_LEVEL": "DEBUG",
    "OTEL_BSP_SCHEDULE_DELAY": "100",
    "FAULTLINE_JOB_MEMORY_BYTES": str(2**31),
}


class Told:
    """What a job left behind."""

    def __init__(self) -> None:
        self.job: dict[str, Any] = {}
        self.headers: dict[str, str] = {}
        self.lines: list[dict[str, Any]] = []
        self.output = ""


@contextmanager
def running(tmp_path: Path, misdeed: str | None, collector: Collector | None) -> Iterator[tuple[httpx2.Client, Told]]:
    """Run store, API and a worker; at the end of the block their output is read."""
    told = Told()
    settings = {**SETTINGS, **({} if collector is None else {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url})}
    with running_valkey(tmp_path) as server, running_process(server.redis_url, tmp_path, **settings) as (process, url):
        with open_fleet(server, tmp_path, **settings) as fleet, httpx2.Client(base_url=url, timeout=60) as http:
            fleet.start(misdeed)
            fleet.wait_until_ready(1)
            yield http, told
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=20)
    told.output = errors + (tmp_path / "worker-0.log").read_text()
    # Standard output has no log lines, only what Celery says there when it is told to stop.
    told.lines = [json.loads(line) for line in told.output.splitlines() if line and line != FAREWELL]


def post(http: httpx2.Client, model: bytes, data: bytes, headers: dict[str, str], **fields: Any) -> dict[str, Any]:
    named = {}
    for part, content in (("model", model), ("data", data)):
        assert upload(http, content).status_code == 201
        named[part] = {"uri": f"artifact:sha256:{compute_sha256(content)}"}
    job = http.post("/v1/audits", json={**named, **fields}, headers=headers).json()
    ended: dict[str, Any] = http.get(job["links"]["self"], headers={"Prefer": "wait=30"}).json()
    return ended


def test_one_trace_goes_from_the_callers_span_through_both_processes_and_the_audit_itself(tmp_path: Path) -> None:
    above = TraceParent.begin()
    with running_collector() as collector, running(tmp_path, "measure_slowly", collector) as (http, told):
        job = post(http, b"model", b"data", {"traceparent": str(above), "X-Request-Id": "request-0001"})
        report = http.get(f"{job['links']['self']}/report")
        eventually(lambda: {"job", "publish"} <= collector.find(above.trace_id).keys())
    spans = collector.find(above.trace_id)
    assert job["state"] == "succeeded"
    assert job["trace_id"] == above.trace_id
    assert report.headers["faultline-trace-id"] == above.trace_id
    assert above.trace_id not in report.text
    assert {name: span.service for name, span in spans.items()} == {
        "POST /v1/audits": "faultline-service",
        **dict.fromkeys(("accept",), "faultline-service"),
        **dict.fromkeys(("job", "claim", "fetch", "audit", "engine", "measuring", "publish", "finish"), "faultline-worker"),
    }
    below = {name: spans[of].span_id for name, of in BELOW.items()}
    assert {name: spans[name].parent for name in BELOW} == below
    assert spans["POST /v1/audits"].parent == above.span_id
    for name, of in BELOW.items():
        if of != "accept":  # the job goes on when its request was answered
            assert spans[of].began_s - 0.05 <= spans[name].began_s <= spans[name].ended_s <= spans[of].ended_s + 0.05, name
    assert spans["measuring"].ended_s - spans["measuring"].began_s == pytest.approx(3.0, abs=1.5)
    assert spans["job"].attributes["faultline.job.id"] == job["id"]
    traced = [line for line in told.lines if line.get("trace_id") == above.trace_id]
    (ended,) = [line for line in traced if line.get("outcome") == "succeeded"]
    assert (ended["job_id"], ended["attempt"]) == (job["id"], 1)
    assert ended["engine_s"] <= ended["seconds"]
    assert [line["request_id"] for line in traced if "accepted" in line["message"]] == ["request-0001"]


BELOW = {
    "accept": "POST /v1/audits",
    "job": "accept",
    **dict.fromkeys(("claim", "fetch", "audit", "publish", "finish"), "job"),
    **dict.fromkeys(("engine", "measuring"), "audit"),
}


@pytest.mark.parametrize("misdeed", [None, "fail_with_a_bug"])
def test_without_a_collector_a_job_has_a_trace_and_no_log_has_secrets_or_values_of_the_data(
    tmp_path: Path, misdeed: str | None
) -> None:
    rows = b"a,label\n" + f"{CANARY}-value,1\n".encode() * 3
    signed = f"https://u:{CANARY}-password@host.example/x?X-Amz-Signature={CANARY}"
    with running(tmp_path, misdeed, None) as (http, told):
        model = (ROOT / "examples/artifacts/digits_cnn_sturdy.onnx").read_bytes()
        headers = {"Authorization": f"Bearer fl_ab_{CANARY}", "traceparent": "00-nonsense", "X-Request-Id": f"{CANARY}?"}
        data = {"format": "csv", "inputs": {"image": "a"}}
        job = post(http, model, rows, headers, labels={"from": signed})
        bad = http.post("/v1/audits", json={"model": {"uri": signed}, "data": {**data, "uri": f"{CANARY}:x"}}, headers=headers)
        answered = http.get("/nothing", params={"key": CANARY}, headers=headers)
    assert job["state"] == "failed"
    assert bad.status_code == 422
    assert answered.status_code == 404
    assert len(job["trace_id"]) == 32
    assert any(line.get("trace_id") == job["trace_id"] and line.get("job_id") == job["id"] for line in told.lines)
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in told.lines)
    assert CANARY not in told.output
    assert "secret detail" not in told.output
    if misdeed is not None:  # what is kept of it: where it failed, and by which exception
        assert "in fail_with_a_bug" in told.output
        assert "KeyError" in told.output


def test_the_audit_process_and_what_it_imports_know_nothing_of_exporters() -> None:
    code = "import sys, worker.child; print(sorted(name for name in sys.modules if 'telemetry' in name or 'prometheus' in name))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
