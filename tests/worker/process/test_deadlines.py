"""Deadlines through the real supervisor: the best answer so far, or a typed problem, and never somebody else's answer."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.report import Report
from tests.storage.desk import OWNER
from tests.storage.valkey import RunningValkey, running_valkey
from tests.worker.audits import write_job
from tests.worker.process.bench import Bench, open_bench
from tests.worker.process.processes import find_processes

POLICY = {"name": "p", "conditions": [{"id": "c", "require": {"loss_change_at_most": 1e9}}]}


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningValkey]:
    with running_valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


def post_long(bench: Bench, folder: Path, deadline_s: float) -> str:
    """Post an audit of a small model that would take minutes."""
    job = write_job(folder, scratch=f"scratch {deadline_s}")
    put = bench.resources.artifacts.put_bytes
    model, data = put(OWNER, job.model_path.read_bytes()), put(OWNER, job.data_path.read_bytes())
    sets = [{"norm": 2, "epsilon": [0.1 * step for step in range(1, 60)]}]
    search = {"budget_passes": 2000, "random_trials": 2}
    return bench.post_for(model, data, sets=sets, search=search, deadline_s=deadline_s, policy=POLICY, fresh=False)


def test_the_report_at_the_deadline_is_the_best_so_far_and_nobody_elses(valkey: RunningValkey, tmp_path: Path) -> None:
    with open_bench(valkey, tmp_path, deadline_grace_s=60.0) as bench:
        assert bench.resources.warm.wait(60)  # a deadline counts from acceptance
        job = post_long(bench, tmp_path, deadline_s=6.0)
        assert bench.run(job) == "succeeded", bench.get(job).problem
        record = bench.get(job)
        assert record.verdict == "inconclusive"
        assert record.started_at is not None
        assert record.ended_at is not None
        path = bench.resources.artifacts.path(OWNER, str(record.report_sha256))
        assert path is not None
        report = Report.model_validate_json(path.read_bytes())
        assert not report.complete
        assert [flag.code for flag in report.flags if flag.severity == "critical"] == ["deadline"]
        assert report.findings or report.breaking_points
        assert "deadline_s" not in report.request
        again = bench.post_for(
            report.subject.model.sha256,
            report.subject.data.sha256,
            **{name: report.request[name] for name in ("sets", "search")},
            fresh=False,
        )
        equal = bench.get(again)
        assert (equal.request_digest, equal.state, equal.reused) == (record.request_digest, "queued", False)
        bench.desk.cancel(again)


def test_an_audit_that_does_not_stop_by_itself_is_ended(valkey: RunningValkey, tmp_path: Path) -> None:
    with open_bench(valkey, tmp_path, "never_end", deadline_grace_s=0.5) as bench:
        job = bench.post(deadline_s=3.0)
        assert bench.run(job) == "failed"
        problem = bench.get(job).problem
    assert problem is not None
    assert problem["code"] == "deadline_missed"
    assert "did not end within 0.5 s" in json.dumps(problem)
    assert find_processes(str(tmp_path)) == {}
