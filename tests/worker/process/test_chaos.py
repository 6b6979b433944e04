"""The chaos command in small; `make chaos` runs it in full."""

import subprocess
import sys

from tests.project.tree import ROOT


def test_killing_workers_audits_and_the_store_loses_no_job_and_doubles_none() -> None:
    options = ["--seeds", "1", "--jobs", "8", "--workers", "2", "--seconds", "8"]
    command = [sys.executable, "-m", "benchmarks.chaos", *options]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    row = ended.stdout.splitlines()[1].split()
    assert row[:4] == ["0", "8", "8", "8"]
    assert row[-1] == "good"
