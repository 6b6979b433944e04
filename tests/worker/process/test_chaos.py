"""The chaos command in small; `make chaos` runs it in full."""

import subprocess
import sys

from tests.project.tree import ROOT

JOBS, WORKERS = 8, 2
SURE = ("kill worker", "kill store", "freeze+kill", "cut store", "rude client")
"""Misdeeds that every machine allows; the command says when one was never done."""


def test_a_mistreated_deployment_loses_no_job_and_doubles_none() -> None:
    options = ["--seeds", "1", "--jobs", str(JOBS), "--workers", str(WORKERS), "--seconds", "15"]
    for name in SURE:
        options += ["--only", name]
    command = [sys.executable, "-m", "benchmarks.chaos", *options]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    row = ended.stdout.splitlines()[1].split()
    assert row[:2] == ["0", str(JOBS + WORKERS)]
    assert row[-1] == "good"
