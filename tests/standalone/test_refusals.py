"""What stops the deployment from starting, and how that is told."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.worker.process.processes import find_processes


def start(folder: Path, *options: str, **settings: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "standalone", "--data-dir", str(folder), *options]
    return subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("options", [("--port", "70000"), ("--port", "x"), ("--workers", "0"), ("--speed", "9")])
def test_bad_usage_exits_with_3(tmp_path: Path, options: tuple[str, str]) -> None:
    ended = start(tmp_path / "data", *options)
    assert ended.returncode == 3
    assert options[0] in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_bad_setting_is_told_with_its_name(tmp_path: Path) -> None:
    ended = start(tmp_path / "data", "--port", "0", FAULTLINE_DRAIN_S="soon")
    assert ended.returncode == 3
    assert "FAULTLINE_DRAIN_S" in ended.stderr


def test_a_part_that_does_not_start_ends_the_start_with_its_reason_and_no_orphans(tmp_path: Path) -> None:
    ended = start(tmp_path / "data", "--port", "0", FAULTLINE_THREADS="0")
    assert ended.returncode == 2
    assert "worker-1 does not start" in ended.stderr
    assert "FAULTLINE_THREADS" in ended.stderr
    assert ended.stdout == ""
    assert find_processes(str(tmp_path)) == {}
