"""Scratch folders of dead workers are removed, those of living ones are not."""

import subprocess
import sys
from pathlib import Path

from tests.project.tree import ROOT
from worker.scratch import Scratch

HOLDER = """
import sys, time
from pathlib import Path
from worker.scratch import Scratch
scratch = Scratch(Path(sys.argv[1]), "other")
(scratch.folder / "audit").mkdir()
(scratch.folder / "audit" / "file").write_bytes(b"left over")
print("held", flush=True)
time.sleep(600)
"""


def test_a_killed_workers_folder_goes_when_the_next_worker_starts(tmp_path: Path) -> None:
    root = tmp_path / "scratch"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(root)], cwd=ROOT, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        Scratch(root, "beside").close()
        assert (root / "other" / "audit" / "file").read_bytes() == b"left over"
        holder.kill()
        holder.wait()
    after = Scratch(root, "after")
    assert not (root / "other").exists()
    assert after.folder.stat().st_mode & 0o777 == 0o700
    after.close()
    assert [path.name for path in root.iterdir()] == ["lock"]
