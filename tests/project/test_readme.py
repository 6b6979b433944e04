"""Every command of the README runs, in the README's order, against a real deployment."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from client.errors import ExitCode
from tests.project.processes import find_free_port, find_processes
from tests.project.tree import BIN, ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
PORT = "8321"
UP = next(block for block in COMMANDS if block.endswith("faultline up\n"))
MAKE = [line for block in COMMANDS for line in block.splitlines() if line.startswith("make ")]
RUN = [block for block in COMMANDS if block != UP and not block.startswith("make ")]
STOP_LIMIT_S = 40


class Workplace(NamedTuple):
    """A folder like a fresh clone after `make setup`, with `faultline up` running in it."""

    folder: Path
    port: str

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        """Run a block of the README as it stands, but for the port."""
        command = ["bash", "-euo", "pipefail", "-c", script.replace(PORT, self.port)]
        return subprocess.run(
            command, cwd=self.folder, env=make_environment(self.port), capture_output=True, text=True, check=False
        )


def make_environment(port: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FAULTLINE_", "REDIS_"))}
    # The terminal whose virtual environment was activated once.
    return {**kept, "FAULTLINE_PORT": port, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    folder, port = tmp_path_factory.mktemp("clone"), str(find_free_port())
    (folder / "examples").symlink_to(ROOT / "examples")
    (folder / ".venv").symlink_to(BIN.parent)
    with subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", UP],
        cwd=folder,
        env=make_environment(port),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as server:
        assert server.stdout is not None
        assert f"http://127.0.0.1:{port}" in server.stdout.readline()
        yield Workplace(folder, port)
        # What a terminal does on Ctrl-C.
        os.killpg(server.pid, signal.SIGINT)
        assert server.wait(STOP_LIMIT_S) == 0
    assert find_processes(str(folder)) == {}


@pytest.mark.slow
def test_every_command_of_the_readme_runs(workplace: Workplace) -> None:
    assert len(RUN) >= 4
    outputs = []
    for script in RUN:
        ran = workplace.run(script)
        assert ran.returncode == 0, f"{script}\n{ran.stdout}\n{ran.stderr}"
        outputs.append(ran.stdout)
    by_curl, in_ci = (json.loads((workplace.folder / name).read_text()) for name in ("verdict.json", "audit.json"))
    assert "Verdict: PASS" in outputs[0]
    assert by_curl["outcome"] == "pass"
    assert in_ci["exit_code"] == 0


@pytest.mark.parametrize("line", MAKE)
def test_every_make_command_of_the_readme_exists(line: str) -> None:
    planned = subprocess.run(["make", "-n", *line.split()[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert planned.returncode == 0, planned.stderr


def test_the_readme_shows_how_to_start_and_a_result_at_once() -> None:
    lines = README.splitlines()
    assert lines.index("make demo") < lines.index("```text") < 30
    assert "make test" in MAKE


def test_the_readme_lists_every_exit_code() -> None:
    listed = re.findall(r"^\| (\d) \|", README, re.MULTILINE)
    assert listed == [str(int(code)) for code in sorted(ExitCode)]


def test_the_readme_tells_ci_users_to_install_the_client_by_itself() -> None:
    assert "pipx install ." in README
    assert "uv tool install ." in README
