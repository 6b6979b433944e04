import subprocess
import sys
from pathlib import Path

from tests.project.tree import ROOT

PROGRAM = """
import time
import worker.engine
import onnxruntime
onnxruntime.InferenceSession({model!r})
time.sleep({wait_s})
"""


def test_the_runtime_keeps_no_usage_data(tmp_path: Path) -> None:
    """Where the runtime reports home, it first makes a database of what it is going to send."""
    model = str(ROOT / "examples/artifacts/digits_mlp.onnx")
    environment = {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    program = PROGRAM.format(model=model, wait_s=1)
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=120)
    assert list(tmp_path.rglob("*")) == []
    telling = program.replace("import worker.engine", "")
    subprocess.run([sys.executable, "-c", telling], env=environment | {"ORT_DISABLE_TELEMETRY": "0"}, check=True, timeout=120)
    assert list(tmp_path.rglob("onnxruntime.db")), "the runtime's telemetry looks different now: check that it is still off"
