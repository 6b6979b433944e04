"""The installed wheel with its base dependencies only: what needs no service works, what does says what to install."""

import json
from pathlib import Path

import pytest

from tests.gate.reports import build_document
from tests.project.test_installs import HEAVY, SERVERS, client_only, run_isolated, wheel

__all__ = ["client_only", "wheel"]

RUN = "from client.cli import run; sys.exit(int(run(sys.argv[1:])))"
FIND = "import importlib.util, sys; print([name for name in sys.argv[1:] if importlib.util.find_spec(name)])"


def test_nothing_heavy_is_importable(client_only: Path) -> None:
    found = run_isolated(client_only, FIND, *HEAVY, *SERVERS)
    assert (found.returncode, found.stdout.strip()) == (0, "[]")


@pytest.mark.parametrize(("outcome", "code"), [("pass", 0), ("fail", 1)])
def test_a_verdict_on_a_file_works(client_only: Path, folder: Path, outcome: str, code: int) -> None:
    (folder / "report.json").write_text(json.dumps(build_document()), encoding="utf-8")
    done = run_isolated(client_only, RUN, "verdict", str(folder / "report.json"), "--policy", str(folder / f"{outcome}.yaml"))
    assert done.returncode == code, done.stderr
    assert f"Verdict: {outcome.upper()}" in done.stdout


@pytest.mark.parametrize("command", ["audit", "replay"])
def test_what_needs_the_extras_says_so(client_only: Path, folder: Path, command: str) -> None:
    files = [str(folder / name) for name in ("model.onnx", "data.npz", "report.json")]
    arguments = {
        "audit": ["audit", files[0], "--data", files[1]],
        "replay": ["replay", files[2], "--model", files[0], "--data", files[1]],
    }
    done = run_isolated(client_only, RUN, *arguments[command])
    assert done.returncode == 3
    assert "faultline[service,worker]" in done.stderr
