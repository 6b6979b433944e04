"""Stands in for the worker processes: takes jobs from the real store and ends them with a stored report, fast and on demand.

What it does with a job is said by the job's label `play`: succeed (default), fail, cancel-me (waits for the cancellation),
linger (half a second of progress first), leave (nobody takes it).
"""

import json
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import httpx2

from gate.evaluate import evaluate
from schemas.base import canonical_bytes
from schemas.errors import Fault, ModelUnreadable
from schemas.policy import Policy
from schemas.problem import build_problem
from schemas.report import Report
from storage.artifacts import FileArtifactStore
from storage.connection import connect
from storage.leases import Claim, Leases
from tests.gate.reports import build_document

PROBLEM = build_problem(
    ModelUnreadable(
        Fault("the ONNX file ends early", "model.onnx", "a whole file", "120 of 4,000 bytes", "Export it again."),
        Fault("no graph was found", "model.onnx", "a graph", "nothing", "Export it again."),
    )
).model_dump(mode="json")


def build_report(request: dict[str, Any]) -> bytes:
    """Return the report of the standing net, about the files that the request names."""
    document = build_document()
    document["subject"]["model"]["sha256"] = request["model"]["uri"].rpartition(":")[2]
    document["subject"]["data"]["sha256"] = request["data"]["uri"].rpartition(":")[2]
    return canonical_bytes(Report.model_validate(document))


class Crew:
    """One thread that works off what is queued at `url`."""

    def __init__(self, url: str, redis_url: str, data_dir: Path) -> None:
        self._url, self._redis_url = url, redis_url
        self._artifacts = FileArtifactStore(data_dir / "artifacts")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with httpx2.Client(base_url=self._url) as http, connect(self._redis_url) as client:
            leases = Leases(client)
            while not self._stop.wait(0.02):
                for job in http.get("/v1/audits", params={"state": "queued"}).json()["items"]:
                    play = job["labels"].get("play", "succeed")
                    if play != "leave":
                        self._play(leases, job["id"], play)

    def _play(self, leases: Leases, job_id: str, play: str) -> None:
        claim = leases.claim(job_id, "crew")
        if claim is None:
            return
        if play == "fail":
            assert leases.finish(job_id, claim.attempt, "failed", problem=PROBLEM)
        elif play == "cancel-me":
            self._wait_for_cancel(leases, claim)
        else:
            self._succeed(leases, claim, steps=5 if play == "linger" else 1)

    def _succeed(self, leases: Leases, claim: Claim, steps: int) -> None:
        for done in range(steps):
            leases.beat(claim.id, claim.attempt, {"phase": "search", "done": done, "total": steps, "eta_s": None})
            time.sleep(0.1 if steps > 1 else 0)
        request = json.loads(claim.request)
        content = build_report(request)
        digest = self._artifacts.put_bytes(claim.owner, content)
        verdict = None
        if request["policy"] is not None:
            policy, report = Policy.model_validate(request["policy"]), Report.model_validate_json(content)
            verdict = evaluate(policy, report, digest, datetime.now(UTC).date()).outcome
        assert leases.finish(claim.id, claim.attempt, "succeeded", report_sha256=digest, verdict=verdict)

    def _wait_for_cancel(self, leases: Leases, claim: Claim) -> None:
        progress = {"phase": "search", "done": 1, "total": 9, "eta_s": None}
        while leases.beat(claim.id, claim.attempt, progress) == "ok" and not self._stop.wait(0.05):
            pass
        problem = PROBLEM | {"code": "cancelled", "title": "The audit was cancelled", "errors": []}
        leases.finish(claim.id, claim.attempt, "cancelled", problem=problem)
