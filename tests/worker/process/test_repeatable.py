"""Real audits on two workers: equal requests give equal bytes, and only audit processes hold the engine."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from schemas.base import canonical_bytes, compute_sha256
from schemas.report import Report
from tests.storage.desk import OWNER
from tests.storage.valkey import running_valkey
from tests.worker.audits import build_request, write_job
from tests.worker.process.fleet import Fleet, open_fleet
from tests.worker.process.processes import eventually, find_children
from worker.audit import AuditInput


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    with running_valkey(folder) as server, open_fleet(server, folder) as opened:
        opened.start()
        opened.start()
        opened.wait_until_ready(2, within_s=120)
        yield opened


def post(fleet: Fleet, files: AuditInput, **fields: Any) -> str:
    model, data = (fleet.artifacts.put_file(OWNER, path) for path in (files.model_path, files.data_path))
    request = build_request(
        model={"uri": f"artifact:sha256:{model}"},
        data={"uri": f"artifact:sha256:{data}", **fields.pop("sampling", {})},
        evaluate_on={"uri": f"artifact:sha256:{data}"},
        theory={"upper_bounds": True, "smoothness": True},
        search={"budget_passes": 40, "random_trials": 3},
        fresh=True,
        scopes=["model", "per_module"],
        **fields,
    )
    content = canonical_bytes(request)
    accepted = fleet.desk.run(fleet.desk.queue.accept(request, OWNER, compute_sha256(content), None, compute_sha256(content)))
    return accepted.record.id


def test_the_same_request_twice_and_on_two_workers_gives_the_same_bytes(fleet: Fleet, tmp_path: Path) -> None:
    files = write_job(tmp_path)
    jobs = [post(fleet, files) for _ in range(3)]
    for job in jobs:
        fleet.doorbell.ring(job)
    for job in jobs:
        fleet.wait_for(job, "succeeded", within_s=120)
    assert len({fleet.find_worker(job).pid for job in jobs}) == 2
    digests = {fleet.desk.get(job).report_sha256 for job in jobs}
    assert len(digests) == 1
    (digest,) = digests
    assert digest is not None
    path = fleet.artifacts.path(OWNER, digest)
    assert path is not None
    content = path.read_bytes()
    assert compute_sha256(content) == digest
    report = Report.model_validate_json(content)
    assert report.subject.evaluate_on is not None
    assert all(finding.held_out and finding.upper_bound and finding.error_bound for finding in report.findings)


def test_a_sampled_audit_gives_the_same_bytes_and_limits(fleet: Fleet, tmp_path: Path) -> None:
    files = write_job(tmp_path)
    precision = {"thresholds": [{"metric": "accuracy", "drop_at_most": 0.9}]}
    jobs = [post(fleet, files, sampling={"max_examples": 40}, precision=precision) for _ in range(2)]
    for job in jobs:
        fleet.doorbell.ring(job)
        fleet.wait_for(job, "succeeded", within_s=120)
    [digest] = {fleet.desk.get(job).report_sha256 for job in jobs}
    path = fleet.artifacts.path(OWNER, digest or "")
    assert path is not None
    report = Report.model_validate_json(path.read_bytes())
    assert (report.subject.data.examples, report.subject.data.sampled, report.subject.data.search_examples) == (90, True, 40)
    assert report.request["precision"]["thresholds"][0]["drop_at_most"] == 0.9
    assert all(finding.measured.metrics["accuracy"].interval for finding in report.findings)


def test_only_audit_processes_hold_torch(fleet: Fleet) -> None:
    for worker in fleet.workers:
        assert not holds_torch(worker.pid)
        eventually(lambda worker=worker: any(holds_torch(pid) for pid in find_children(worker.pid)), 60)  # type: ignore[misc]


def holds_torch(pid: int) -> bool:
    return "libtorch" in Path(f"/proc/{pid}/maps").read_text()
