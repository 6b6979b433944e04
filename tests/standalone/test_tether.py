"""A tethered command dies with its parent, however that one ends."""

import os
import subprocess
import sys
from pathlib import Path

from standalone.program import TETHER
from tests.worker.process.processes import eventually, is_running

STARTER = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-I", "-S", sys.argv[1], str(os.getpid()), "sleep", "600"], start_new_session=True)
print(child.pid, flush=True)
time.sleep(600)
"""


def test_the_command_dies_when_its_parent_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", STARTER, str(TETHER)], stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        eventually(lambda: b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"), 5.0)
        assert is_running(pid)
        starter.kill()
        eventually(lambda: not is_running(pid), 2.0)


def test_the_command_is_not_run_when_the_parent_is_another(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    command = [sys.executable, "-I", "-S", str(TETHER), str(os.getppid()), "touch", str(touched)]
    assert subprocess.run(command, check=False).returncode == 1
    assert not touched.exists()


def test_the_command_keeps_its_exit_code_and_arguments() -> None:
    command = [sys.executable, "-I", "-S", str(TETHER), str(os.getpid()), "sh", "-c", 'exit "$1"', "sh", "7"]
    assert subprocess.run(command, check=False).returncode == 7
