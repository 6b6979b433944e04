"""`make demo`, as a stranger runs it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project.processes import find_processes
from tests.project.tree import ROOT

LIMIT_S = 600


def read_summary(text: str) -> dict[str, list[str]]:
    """Return the cells of the summary table by the model's name."""
    table = text[text.rindex("model ") :].strip().splitlines()[1:]
    return {cells[0]: cells for line in table if len(cells := re.split(r"\s{2,}", line.strip())) == 6}


def read_epsilon(cell: str) -> float:
    found = re.match(r"epsilon ([\d.]+) ", cell)
    assert found is not None, cell
    return float(found[1])


@pytest.mark.slow
def test_the_demo_fails_the_brittle_model_passes_the_sturdy_one_and_leaves_nothing(tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FAULTLINE_", "REDIS_"))}
    # The summary is judged, not the time: other programs may be using this machine.
    ran = subprocess.run(
        [sys.executable, str(ROOT / "examples/demo.py")],
        cwd=tmp_path,
        env={**kept, "TMPDIR": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert find_processes(str(tmp_path)) == {}
    assert list(tmp_path.iterdir()) == []
    summary = read_summary(ran.stdout)
    assert summary["brittle"][3:5] == ["FAIL", "1 (expected 1)"]
    assert summary["sturdy"][3:5] == ["pass", "0 (expected 0)"]
    for part in ("Most vulnerable modules", "Gradient against chance", "Breaking points", "Verdict by policy"):
        assert ran.stdout.count(part) >= 2, part
    printed = read_summary((ROOT / "README.md").read_text(encoding="utf-8").split("```text")[1].split("```")[0])
    for name, cells in printed.items():
        assert cells[1] == summary[name][1]
        assert cells[3:5] == summary[name][3:5]
        assert read_epsilon(cells[2]) == pytest.approx(read_epsilon(summary[name][2]), rel=0.06)
