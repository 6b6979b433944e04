"""`python -m standalone` as a whole: real store, API, worker and audits."""

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.standalone.running import Deployment, get_job, running
from tests.worker.audits import build_request, write_job
from tests.worker.process.processes import eventually, is_running

ENDLESS: dict[str, Any] = {"search": {"random_trials": 10_000, "budget_passes": 100_000}, "scopes": ["per_tensor", "per_module"]}


@pytest.fixture
def job_files(tmp_path: Path) -> tuple[bytes, bytes]:
    folder = tmp_path / "made"
    folder.mkdir()
    job = write_job(folder)
    return job.model_path.read_bytes(), job.data_path.read_bytes()


def post(url: str, files: tuple[bytes, bytes], **fields: Any) -> str:
    uris = []
    for content in files:
        sha256 = hashlib.sha256(content).hexdigest()
        httpx2.put(f"{url}/v1/artifacts/{sha256}", content=content, timeout=30).raise_for_status()
        uris.append(f"artifact:sha256:{sha256}")
    model, data = uris
    request = build_request(model={"uri": model}, data={"uri": data}, **fields).model_dump(mode="json")
    answer = httpx2.post(f"{url}/v1/audits", json=request, timeout=30).raise_for_status()
    return str(answer.json()["id"])


def is_in(url: str, job: str, state: str, attempt: int) -> bool:
    found = get_job(url, job)
    return (found["state"], found["attempt"]) == (state, attempt)


def test_jobs_outlive_the_deployment_and_nothing_else_does(tmp_path: Path, job_files: tuple[bytes, bytes]) -> None:
    folder = tmp_path / "data"
    with running(folder) as first:
        short = post(first.url, job_files)
        eventually(lambda: is_in(first.url, short, "succeeded", 1), 60)
        endless = post(first.url, job_files, **ENDLESS)
        eventually(lambda: is_in(first.url, endless, "running", 1), 60)
        assert len(first.find("worker.child")) >= 1
        first.process.kill()
        eventually(first.is_gone, 2.0)
    with running(folder) as second:
        assert is_in(second.url, short, "succeeded", 1)
        assert httpx2.get(f"{second.url}/v1/audits/{short}/report", timeout=30).status_code == 200
        eventually(lambda: is_in(second.url, endless, "running", 2), 60)
        httpx2.delete(f"{second.url}/v1/audits/{endless}", timeout=30).raise_for_status()
        eventually(lambda: is_in(second.url, endless, "cancelled", 2), 10)
        assert second.stop(signal.SIGINT) == 0
        assert second.is_gone()


def test_parts_that_die_come_back_at_the_same_address_which_no_other_deployment_takes(
    tmp_path: Path, job_files: tuple[bytes, bytes]
) -> None:
    with running(tmp_path / "data") as deployment:
        for words in ("valkey-server", "-m service", "-m worker"):
            (victim,) = [pid for pid in deployment.find(words) if "worker.child" not in read_command(pid)]
            os.kill(victim, signal.SIGKILL)
            eventually(lambda victim=victim: not is_running(victim), 2.0)  # type: ignore[misc]
        eventually(lambda: is_ready(deployment.url), 60)
        job = post(deployment.url, job_files)
        eventually(lambda: is_in(deployment.url, job, "succeeded", 1), 60)
        check_that_another_is_refused(deployment)
        assert deployment.stop(signal.SIGTERM) == 0


def check_that_another_is_refused(deployment: Deployment) -> None:
    port = deployment.url.rpartition(":")[2]
    elsewhere = deployment.folder.with_name("other")
    again, beside = start(deployment.folder, "0"), start(elsewhere, port)
    assert again.returncode == beside.returncode == 3
    assert f"already runs on the data folder {deployment.folder}" in again.stderr
    assert deployment.url in again.stderr
    assert f"port {port} cannot be used" in beside.stderr
    assert again.stdout == beside.stdout == ""


def read_command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def is_ready(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/readyz", timeout=30).status_code == 200
    except httpx2.TransportError:  # the API is just being started again
        return False


def start(folder: Path, port: str, **settings: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "standalone", "--data-dir", str(folder), "--port", port]
    return subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, timeout=60, check=False)
