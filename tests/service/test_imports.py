import subprocess
import sys

from tests.project.tree import ROOT

HEAVY = {"torch", "onnx", "onnxruntime", "numpy", "scipy", "torchmetrics"}


def test_the_service_runs_without_what_could_open_a_model() -> None:
    program = "import service.__main__, service.app, sys; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {"service", "gate", "storage", "schemas", "fastapi", "celery"} <= loaded
    assert not loaded & (HEAVY | {"worker", "client", "standalone"})
