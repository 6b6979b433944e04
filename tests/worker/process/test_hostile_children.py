"""Whatever the audit process does, the job ends as it must and nothing of the process is left."""

import json
import logging
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pytest

from storage.artifacts import FileArtifactStore
from storage.endings import MAX_TRIES
from tests.storage.desk import OWNER
from tests.storage.valkey import RunningValkey, running_valkey
from tests.worker.process.bench import Bench, open_bench
from tests.worker.process.processes import eventually, find_processes


class OpenBench(Protocol):
    def __call__(self, misdeed: str | None = None, **changes: Any) -> AbstractContextManager[Bench]: ...


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningValkey]:
    with running_valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture
def open_here(valkey: RunningValkey, tmp_path: Path) -> Iterator[OpenBench]:
    yield partial(open_bench, valkey, tmp_path)
    assert find_processes(str(tmp_path)) == {}
    assert [path.name for path in (tmp_path / "scratch").iterdir()] == ["lock"]


POLICY = {"name": "p", "conditions": [{"id": "c", "require": {"loss_change_at_most": 1}}]}
BROKEN_PROTOCOL = (
    *("say_garbage", "say_unknown_type", "claim_cancelled", "say_too_much", "say_a_half_result", "fill_the_folder"),
    *("name_a_path", "name_a_link", "name_a_second_name", "name_a_missing_file", "name_a_pipe", "name_no_finding"),
    "hide_half_a_character",
)


@pytest.mark.parametrize("misdeed", BROKEN_PROTOCOL)
def test_a_process_that_breaks_the_rules_fails_its_job_at_once(open_here: OpenBench, misdeed: str) -> None:
    with open_here(misdeed, job_output_bytes=2**20, job_scratch_bytes=2**24) as bench:
        job = bench.post()
        assert bench.run(job) == "failed"
        record = bench.get(job)
    assert record.state == "failed"
    assert record.attempt == 1
    assert record.problem is not None
    assert record.problem["code"] == "worker_fault"
    assert all(item["what"] and item["advice"] for item in record.problem["errors"])


@pytest.mark.parametrize(("misdeed", "named"), [("crash", "SIGSEGV"), ("exit_silently", "exit code 0")])
def test_a_process_that_dies_costs_a_try_and_the_fifth_ends_in_quarantine(open_here: OpenBench, misdeed: str, named: str) -> None:
    with open_here(misdeed) as bench:
        job = bench.post()
        outcomes = [bench.run(job) for _ in range(MAX_TRIES)]
        record = bench.get(job)
        assert bench.run(job) == "not_claimed"
    assert outcomes == ["crashed"] * MAX_TRIES
    assert record.state == "quarantined"
    assert record.problem is not None
    assert record.problem["code"] == "attempts_exhausted"
    assert named in json.dumps(record.problem)


def test_a_process_that_runs_too_long_is_ended_with_everything_it_started(open_here: OpenBench) -> None:
    with open_here("never_end", job_timeout_s=1.0) as bench:
        job = bench.post()
        assert bench.run(job) == "failed"
        record = bench.get(job)
    assert record.problem is not None
    assert record.problem["code"] == "time_limit"
    assert "1 s" in record.problem["detail"]


@pytest.mark.parametrize("misdeed", ["use_memory", "allocate"])
def test_a_process_that_takes_too_much_memory_is_told_so(open_here: OpenBench, misdeed: str) -> None:
    with open_here(misdeed, job_memory_bytes=2**28) as bench:
        job = bench.post()
        assert bench.run(job) == "failed"
        record = bench.get(job)
    assert record.problem is not None
    assert record.problem["code"] == "memory_limit"


def test_a_refused_model_is_told_with_every_fault_and_without_control_characters(open_here: OpenBench) -> None:
    with open_here("refuse_the_model") as bench:
        job = bench.post()
        assert bench.run(job) == "failed"
        record = bench.get(job)
    assert record.problem is not None
    assert record.problem["code"] == "model_unreadable"
    assert [item["what"] for item in record.problem["errors"]] == ["one \\x1b[31mred", "two"]


def test_a_bug_is_told_without_its_details(open_here: OpenBench) -> None:
    with open_here("fail_with_a_bug") as bench:
        job = bench.post()
        assert bench.run(job) == "failed"
        record = bench.get(job)
    assert record.problem is not None
    assert record.problem["code"] == "worker_fault"
    assert "secret" not in json.dumps(record.problem)
    assert "Traceback" not in json.dumps(record.problem)


def test_the_process_has_nothing_that_it_does_not_need(open_here: OpenBench) -> None:
    with open_here("tell_what_it_has") as bench:
        job = bench.post(policy=POLICY, labels={"branch": "main"})
        assert bench.run(job) == "failed"
        record = bench.get(job)
    assert record.problem is not None
    told = {item["what"]: json.loads(item["got"]) for item in record.problem["errors"]}
    assert "secret" not in json.dumps(told["environment"])
    assert "/scratch/bench/" in told["folder"]
    assert told["mode"] == "0o700"
    assert told["core"] == 0
    assert told["files"] == 1024
    assert told["no_new_privileges"].strip() == "1"
    assert told["own_group"]
    assert told["own_session"]
    assert told["stdin"] == "/dev/null"
    assert not told["policy"]
    assert told["labels"] == {}


def test_a_result_becomes_a_report_with_what_the_supervisor_saw_itself(open_here: OpenBench, tmp_path: Path) -> None:
    with open_here("measure_well") as bench:
        job = bench.post(policy=POLICY)
        assert bench.run(job) == "succeeded"
        record = bench.get(job)
    artifacts = FileArtifactStore(tmp_path / "artifacts")
    assert record.report_sha256 is not None
    path = artifacts.path(OWNER, record.report_sha256)
    assert path is not None
    report = json.loads(path.read_bytes())
    assert record.verdict in {"pass", "fail", "warn", "inconclusive"}
    assert {name for name, holds in report["environment"]["sandbox"].items() if holds} == {"no_new_privileges", "rlimits"}
    assert report["subject"]["model"]["size_bytes"] == len(b"a model")
    assert report["subject"]["request_digest"] == record.request_digest
    (counterexample,) = report["counterexamples"]
    kept = artifacts.path(OWNER, counterexample["artifact"].removeprefix("sha256:"))
    assert kept is not None
    assert kept.read_bytes() == b"a counterexample"


def test_a_process_that_lies_about_its_time_is_believed_as_far_as_it_can_be_true(
    open_here: OpenBench, caplog: pytest.LogCaptureFixture
) -> None:
    with open_here("lie_about_time") as bench, caplog.at_level(logging.INFO):
        job = bench.post()
        assert bench.run(job) == "succeeded"
    (line,) = [record.getMessage() for record in caplog.records if f"job {job} attempt 1 succeeded" in record.getMessage()]
    total_s, engine_s = (float(seconds) for seconds in re.findall(r"([\d.]+) s\b", line))
    assert engine_s <= total_s < 30


def test_a_cancelled_job_stops_at_once(open_here: OpenBench) -> None:
    with open_here("never_end") as bench:
        job = bench.post()
        running = bench.run_aside(job)
        eventually(lambda: bench.get(job).progress is not None)
        assert bench.desk.cancel(job) is not None
        assert running.end(5.0) == "cancelled"
        record = bench.get(job)
    assert record.state == "cancelled"
    assert record.problem is not None
    assert record.problem["code"] == "cancelled"


def test_a_job_that_went_to_another_worker_is_dropped_in_silence(open_here: OpenBench) -> None:
    with open_here("never_end") as bench:
        job = bench.post()
        running = bench.run_aside(job)
        eventually(lambda: bench.get(job).progress is not None)
        bench.desk.expire(job)
        claim = bench.desk.claim(job, "another")
        assert running.end(5.0) == "lost"
        record = bench.get(job)
    assert (record.state, record.attempt) == ("running", claim.attempt)


def test_draining_gives_the_job_back_at_no_cost(open_here: OpenBench) -> None:
    with open_here("never_end", drain_s=0.5) as bench:
        job = bench.post()
        running = bench.run_aside(job)
        eventually(lambda: bench.get(job).progress is not None)
        bench.resources.drain.begin()
        assert running.end(5.0) == "released"
        assert bench.run(job) == "declined"
        record = bench.get(job)
        tries = bench.desk.client.hget(f"faultline:job:{job}", "tries")
    assert record.state == "queued"
    assert tries == b"0"


def test_missing_artifacts_are_all_named(open_here: OpenBench) -> None:
    with open_here("measure_well") as bench:
        job = bench.post_for("1" * 64, "2" * 64)
        assert bench.run(job) == "failed"
        record = bench.get(job)
    assert record.problem is not None
    assert [item["where"] for item in record.problem["errors"]] == ["/model/uri", "/data/uri"]


def test_the_report_of_an_equal_audit_is_judged_again_and_not_measured_again(open_here: OpenBench) -> None:
    with open_here("measure_well") as bench:
        first = bench.post(fresh=False, search={"seed": 1})
        second = bench.post(fresh=False, search={"seed": 1}, policy=POLICY)
        assert bench.run(first) == "succeeded"
        assert bench.run(second) == "succeeded"
        one, two = bench.get(first), bench.get(second)
    assert one.report_sha256 == two.report_sha256
    assert one.verdict is None
    assert two.verdict is not None
