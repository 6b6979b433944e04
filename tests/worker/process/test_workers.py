"""Real worker processes that are killed, stopped and cut off from their store while a job runs."""

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.base import canonical_bytes, compute_sha256
from schemas.request import AuditRequest
from tests.storage.desk import OWNER
from tests.storage.valkey import RunningValkey, running_valkey
from tests.worker.process.fleet import Fleet, are_gone, find_family, open_fleet
from tests.worker.process.processes import eventually, find_children, find_processes

LEASE_S = 2.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningValkey]:
    with running_valkey(tmp_path) as found:
        yield found


@pytest.fixture
def fleet(server: RunningValkey, tmp_path: Path) -> Iterator[Fleet]:
    settings = {"FAULTLINE_LEASE_S": str(LEASE_S), "FAULTLINE_DRAIN_S": "1", "FAULTLINE_JOB_MEMORY_BYTES": str(2**31)}
    settings |= {"FAULTLINE_CLEANUP_S": "1", "FAULTLINE_ARTIFACT_GRACE_S": "3600"}
    with open_fleet(server, tmp_path, **settings) as opened:
        yield opened
    assert [command for command in find_processes(str(tmp_path)).values() if "valkey" not in command] == []


def post(fleet: Fleet) -> str:
    model, data = fleet.artifacts.put_bytes(OWNER, b"model"), fleet.artifacts.put_bytes(OWNER, b"data")
    request = AuditRequest.model_validate(
        {"model": {"uri": f"artifact:sha256:{model}"}, "data": {"uri": f"artifact:sha256:{data}"}, "fresh": True}
    )
    content = canonical_bytes(request)
    accepted = fleet.desk.run(fleet.desk.queue.accept(request, OWNER, compute_sha256(content), None, compute_sha256(content)))
    fleet.doorbell.ring(accepted.record.id)
    return accepted.record.id


def start_job(fleet: Fleet, workers: int, misdeed: str = "measure_slowly") -> str:
    """Start the workers and a job, and return when the job has made progress."""
    for _ in range(workers):
        fleet.start(misdeed)
    fleet.wait_until_ready(workers)
    job = post(fleet)
    fleet.wait_for_progress(job)
    return job


def test_workers_remove_what_nobody_has_used_and_nothing_of_a_running_job(fleet: Fleet) -> None:
    job = start_job(fleet, 2)
    unused = fleet.artifacts.put_bytes(OWNER, b"unused")
    paths = {entry.name: Path(entry.path) for _, entry in fleet.artifacts.walk(OWNER)}
    for path in paths.values():
        os.utime(path, (time.time() - 7200,) * 2)
    eventually(lambda: not paths[unused].exists())
    assert {entry.name for _, entry in fleet.artifacts.walk(OWNER)} == paths.keys() - {unused}
    assert fleet.desk.get(job).state == "running"


def test_killing_the_audit_process_costs_one_try(fleet: Fleet) -> None:
    job = start_job(fleet, 1)
    (worker,) = fleet.workers
    command = re.compile(rb"measure_slowly")
    children = [pid for pid in find_children(worker.pid) if command.search(Path(f"/proc/{pid}/cmdline").read_bytes())]
    busy = min(children, key=lambda pid: Path(f"/proc/{pid}").stat().st_mtime)
    os.kill(busy, signal.SIGKILL)
    fleet.wait_for(job, "succeeded")
    assert fleet.desk.get(job).attempt == 2


def test_killing_the_worker_hands_its_job_over_within_the_lease_and_leaves_no_orphan(fleet: Fleet) -> None:
    job = start_job(fleet, 2)
    worker = fleet.find_worker(job)
    family = find_family(worker)
    assert len(family) >= 2
    worker.kill()
    killed_at = time.monotonic()
    eventually(lambda: are_gone(family[1:]), 1.0)
    eventually(lambda: fleet.desk.get(job).attempt == 2, LEASE_S + LEASE_S / 3 + 1.0)
    assert time.monotonic() - killed_at < LEASE_S + LEASE_S / 3 + 1.0
    fleet.wait_for(job, "succeeded")
    assert fleet.find_worker(job) is not worker


def test_a_frozen_worker_loses_its_job_and_reports_nothing_when_it_wakes(fleet: Fleet) -> None:
    job = start_job(fleet, 2)
    worker = fleet.find_worker(job)
    family = find_family(worker)
    for pid in family:
        os.kill(pid, signal.SIGSTOP)
    fleet.wait_for(job, "succeeded")
    before = fleet.desk.get(job)
    for pid in family:
        os.kill(pid, signal.SIGCONT)
    log = fleet.folder / f"worker-{fleet.workers.index(worker)}.log"
    eventually(lambda: f"job {job} attempt 1 lost" in log.read_text(), 20.0)
    assert fleet.desk.get(job) == before
    assert before.attempt == 2


def test_sigterm_gives_a_long_job_back_at_no_cost_and_another_worker_ends_it(fleet: Fleet) -> None:
    job = start_job(fleet, 1)
    (worker,) = fleet.workers
    family = find_family(worker)
    worker.terminate()
    assert worker.wait(15) == 0
    assert are_gone(family)
    record = fleet.desk.get(job)
    assert (record.state, record.attempt) == ("queued", 1)
    assert fleet.desk.client.hget(f"faultline:job:{job}", "tries") == b"0"
    fleet.start("measure_well")
    fleet.wait_for(job, "succeeded")


def test_sigterm_lets_a_short_job_end(fleet: Fleet) -> None:
    job = start_job(fleet, 1, "measure_briefly")
    (worker,) = fleet.workers
    worker.terminate()
    assert worker.wait(15) == 0
    assert fleet.desk.get(job).state == "succeeded"
    assert fleet.desk.get(job).attempt == 1


def test_a_job_goes_on_while_the_store_is_away_and_the_worker_consumes_again_afterwards(
    fleet: Fleet, server: RunningValkey
) -> None:
    first = start_job(fleet, 1)
    server.kill()
    time.sleep(1.0)
    server.start()
    fleet.wait_for(first, "succeeded")
    assert fleet.desk.get(first).attempt == 1
    second = post(fleet)
    fleet.wait_for(second, "succeeded")


def test_a_job_whose_doorbell_was_lost_is_found(fleet: Fleet) -> None:
    fleet.start("measure_well")
    fleet.wait_until_ready(1)
    job = post(fleet)
    fleet.desk.client.delete("faultline.cpu")
    fleet.wait_for(job, "succeeded")


def test_bad_settings_stop_the_start_with_every_problem(fleet: Fleet, tmp_path: Path) -> None:
    environment = {"FAULTLINE_THREADS": "0", "FAULTLINE_DEVICE": "abacus", "REDIS_URL": "http://example.org"}
    fleet._environment.update(environment)
    assert fleet.start().wait(20) == 3
    said = (tmp_path / "worker-0.log").read_text()
    assert all(name in said for name in environment)
