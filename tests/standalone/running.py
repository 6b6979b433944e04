"""Runs `python -m standalone` as a user does."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2

from tests.project.tree import ROOT
from tests.worker.process.processes import eventually, find_processes

READY = re.compile(r"faultline ready at (http://127\.0\.0\.1:\d+)\n")


class Deployment:
    """One started deployment; `url` is known once it is ready."""

    def __init__(self, folder: Path, *options: str, **settings: str) -> None:
        self.folder = folder
        environment = {name: value for name, value in os.environ.items() if name != "REDIS_URL"}
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "standalone", "--data-dir", str(folder), "--port", "0", *options],
            env={**environment, "PYTHONPATH": str(ROOT), **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.url = ""

    def wait_until_ready(self) -> float:
        """Return how long it took."""
        began = time.monotonic()
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = READY.fullmatch(line)
        if found is None:
            self.process.kill()
            message = f"{line}{self.process.communicate()[1]}"
            raise AssertionError(message)
        self.url = found[1]
        return time.monotonic() - began

    def find(self, words: str) -> list[int]:
        """Return its processes whose command line holds the words."""
        return [pid for pid, command in find_processes(str(self.folder)).items() if words in command]

    def is_gone(self) -> bool:
        return find_processes(str(self.folder)) == {}

    def stop(self, number: signal.Signals = signal.SIGINT, within_s: float = 40.0) -> int:
        self.process.send_signal(number)
        self.process.communicate(timeout=within_s)
        return self.process.returncode


@contextmanager
def running(folder: Path, *options: str, **settings: str) -> Iterator[Deployment]:
    """Start a deployment and wait until it is ready; nothing of it is left at the end."""
    deployment = Deployment(folder, *options, **settings)
    try:
        deployment.wait_until_ready()
        yield deployment
    finally:
        deployment.process.kill()
        deployment.process.communicate()
        eventually(deployment.is_gone, 5.0)


def get_job(url: str, job_id: str) -> dict[str, object]:
    job: dict[str, object] = httpx2.get(f"{url}/v1/audits/{job_id}", timeout=30).raise_for_status().json()
    return job
