"""Real worker processes over a real store."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.artifacts import FileArtifactStore
from storage.doorbell import Doorbell
from tests.project.tree import ROOT
from tests.storage.desk import Desk, open_desk
from tests.storage.valkey import RunningValkey
from tests.worker.process.processes import eventually, find_children, is_running

QUICK = str(Path(__file__).with_name("quick_worker.py"))


class Fleet:
    """Starts workers, and knows which one runs a job."""

    def __init__(self, valkey: RunningValkey, desk: Desk, folder: Path, settings: dict[str, str]) -> None:
        self.desk = desk
        self.folder = folder
        self.artifacts = FileArtifactStore(folder / "artifacts")
        self.doorbell = Doorbell(valkey.broker_url)
        self.workers: list[subprocess.Popen[bytes]] = []
        self._environment = {
            **os.environ,
            "REDIS_URL": valkey.redis_url,
            "FAULTLINE_DATA_DIR": str(folder),
            "PYTHONPATH": str(ROOT),
            **settings,
        }

    def start(self, misdeed: str | None = None) -> subprocess.Popen[bytes]:
        """Start a worker with real audits, or one whose audit processes do `misdeed`; it is not ready yet."""
        command = [sys.executable, *(["-m", "worker"] if misdeed is None else [QUICK, misdeed])]
        confined = {} if misdeed is None else {"FAULTLINE_SANDBOX": "off"}  # the misdeeds read the project's files
        with (self.folder / f"worker-{len(self.workers)}.log").open("wb") as log:
            worker = subprocess.Popen(command, env={**self._environment, **confined}, stderr=log, stdout=log, cwd=ROOT)
        self.workers.append(worker)
        return worker

    def wait_until_ready(self, count: int, within_s: float = 60.0) -> None:
        eventually(lambda: len(self.desk.run(self.desk.queue.workers())) >= count, within_s)

    def find_worker(self, job_id: str) -> subprocess.Popen[bytes]:
        """Return the worker that holds the job."""
        name = self.desk.client.hget(f"faultline:job:{job_id}", "worker")
        assert isinstance(name, bytes)
        (worker,) = [worker for worker in self.workers if f"-{worker.pid}-" in name.decode()]
        return worker

    def wait_for(self, job_id: str, state: str, within_s: float = 30.0) -> None:
        eventually(lambda: self.desk.get(job_id).state == state, within_s)

    def wait_for_progress(self, job_id: str) -> None:
        eventually(lambda: self.desk.get(job_id).progress is not None, 30.0)

    def close(self) -> None:
        for worker in self.workers:
            worker.send_signal(signal.SIGTERM)
        for worker in self.workers:
            try:
                worker.wait(30)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
        self.doorbell.close()


@contextmanager
def open_fleet(valkey: RunningValkey, folder: Path, **settings: str) -> Iterator[Fleet]:
    """Open a fleet without workers; at the end none of its processes is left."""
    with open_desk(valkey) as desk:
        fleet = Fleet(valkey, desk, folder, settings)
        try:
            yield fleet
        finally:
            fleet.close()


def find_family(worker: subprocess.Popen[bytes]) -> list[int]:
    """Return the worker's process and its audit processes."""
    return [worker.pid, *find_children(worker.pid)]


def are_gone(pids: list[int]) -> bool:
    return not any(is_running(pid) for pid in pids)
