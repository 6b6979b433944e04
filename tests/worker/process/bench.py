"""A workbench: everything that running a job needs, over a real store, with a chosen audit process."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from schemas.base import canonical_bytes, compute_sha256
from schemas.kinds import compute_request_digest
from schemas.request import AuditRequest
from schemas.version import ENGINE_VERSION
from storage.artifacts import FileArtifactStore
from storage.doorbell import Doorbell
from storage.leases import Leases
from storage.placement import Placement
from storage.records import JobRecord
from tests.project.tree import ROOT
from tests.storage.desk import OWNER, Desk, open_desk
from tests.storage.valkey import RunningValkey
from worker.drain import Drain
from worker.fetching.fetch import Fetcher
from worker.fetching.resolving import Resolver, resolve_by_system
from worker.process import ChildSpec
from worker.scratch import Scratch
from worker.settings import WorkerSettings
from worker.supervisor import Outcome, Resources, run_job
from worker.warm import WarmChild, build_child_spec

HOSTILE = Path(__file__).with_name("hostile.py")


@dataclass
class Bench:
    """Posts jobs and runs them on this thread or another."""

    desk: Desk
    resources: Resources

    def post(self, **fields: Any) -> str:
        """Accept an audit of two uploaded files and return its id."""
        put = self.resources.artifacts.put_bytes
        model, data = put(OWNER, b"a model"), put(OWNER, b"data")
        return self.post_for(model, data, **fields)

    def post_for(self, model: str, data: str, **fields: Any) -> str:
        content = {
            "model": {"uri": f"artifact:sha256:{model}"},
            "data": {"uri": f"artifact:sha256:{data}"},
            "fresh": True,
            **fields,
        }
        return self.post_request(AuditRequest.model_validate(content))

    def post_request(self, request: AuditRequest) -> str:
        digest = compute_request_digest(request, ENGINE_VERSION)
        body, placed = compute_sha256(canonical_bytes(request)), Placement(deadline_s=request.deadline_s)
        accepted = self.desk.run(self.desk.queue.accept(request, OWNER, digest, None, body, placement=placed))
        return accepted.record.id

    def run(self, job_id: str) -> Outcome:
        return run_job(job_id, self.resources)

    def run_aside(self, job_id: str) -> "Running":
        running = Running(job_id, self.resources)
        running.start()
        return running

    def get(self, job_id: str) -> JobRecord:
        return self.desk.get(job_id)


class Running(threading.Thread):
    """A job that is being run while the test does something to it."""

    def __init__(self, job_id: str, resources: Resources) -> None:
        super().__init__()
        self.outcome: Outcome | None = None
        self._job_id = job_id
        self._resources = resources

    def run(self) -> None:
        self.outcome = run_job(self._job_id, self._resources)

    def end(self, within_s: float = 20.0) -> Outcome | None:
        self.join(within_s)
        assert not self.is_alive()
        return self.outcome


def misdirect(spec: ChildSpec, misdeed: str) -> ChildSpec:
    """Return how to start a process that does `misdeed` instead of an audit."""
    options = spec.command[spec.command.index("--parent") :]
    paths = {**spec.environment, "PYTHONPATH": str(ROOT)}
    return replace(spec, command=(sys.executable, str(HOSTILE), misdeed, *options), environment=paths)


@contextmanager
def open_bench(
    valkey: RunningValkey, folder: Path, misdeed: str | None = None, resolve: Resolver = resolve_by_system, **changes: Any
) -> Iterator[Bench]:
    """Open a bench whose audit process does `misdeed`, or is the real one."""
    values = {"lease_s": 2.0, "drain_s": 0.0, "job_timeout_s": 60.0, "job_memory_bytes": 2**31, **changes}
    if misdeed is not None:
        values = {"sandbox": "off", **values}  # the supervisor must not need it
    settings = WorkerSettings(redis_url=valkey.redis_url, data_dir=folder, **values)
    environment = {"PATH": "/usr/bin:/bin", "REDIS_URL": "redis://:secret@example.org/0", "FAULTLINE_TOKEN": "secret"}
    spec = build_child_spec(settings, environment)
    if misdeed is not None:
        spec = misdirect(spec, misdeed)
    scratch = Scratch(folder / "scratch", "bench")
    warm = WarmChild(spec, scratch.folder)
    warm.start()
    with open_desk(valkey, settings.lease_s) as desk:
        desk.client.flushall()  # a job that an earlier test left in the queue would be the next one
        artifacts = FileArtifactStore(folder / "artifacts")
        leases = Leases(valkey.connect(), settings.lease_s)
        fetcher = Fetcher(settings, artifacts, folder, resolve)
        doorbell = Doorbell(valkey.broker_url)
        try:
            yield Bench(desk, Resources("bench", settings, leases, artifacts, doorbell, warm, Drain(settings.drain_s), fetcher))
        finally:
            warm.close()
            scratch.close()
            doorbell.close()
