"""Bar: peak memory, as a multiple of the weights', and top-n over 1e8 weights.

    python -m benchmarks.memory [--width W]

Each figure comes from a fresh child process: the peak resident memory of a phase minus what the process held before it opened
anything, over the bytes of the weights (float32, five linear layers, so that activations are next to nothing). Phases: opening,
the gradient, one one-step cell of all weights, one `auto` cell of all weights with 12 passes. Top-n: seconds of the processor
and peak memory beyond the vector, its result included, as a share of the vector. Exit code 1 when a figure is above its bar.
"""

import argparse
import gc
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import nn

import worker.audit  # noqa: F401 - what a worker has loaded before it reads a model
from benchmarks.first_order import compute_clean
from worker.engine.cells import plan_cells
from worker.engine.corruption import CorruptionSet, keep_largest
from worker.engine.data.files import DataFile
from worker.engine.opening import Source, open_session
from worker.engine.record import Pool
from worker.engine.scopes import find_scopes
from worker.engine.search import SearchSettings, search_cells
from worker.engine.session import Evaluator

EXAMPLES, LAYERS, PASSES = 32, 4, 12
LONG = 10**8
TOP_SECONDS, TOP_SHARE = 3.0, 1.5
BARS = {"first_order": 3, "auto": 6}
"""The gradient, which serves both, is held to the lower one."""
FORGET_PEAK = "5"
"""What Linux takes in /proc/self/clear_refs to set the peak of the resident memory to its present size."""


def read_bytes(key: str) -> int:
    """Return a figure of /proc/self/status: VmRSS, or VmHWM for the peak."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key))


@contextmanager
def watch(name: str, base: int, unit: int, bar: float = math.inf) -> Iterator[list[bool]]:
    """Print the peak of what is done inside; the list that is given holds, in the end, whether it kept its bar."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text(FORGET_PEAK, encoding="ascii")
    started, kept = time.process_time(), list[bool]()
    yield kept
    peak = (read_bytes("VmHWM") - base) / unit
    kept.append(peak <= bar)
    shown = "" if math.isinf(bar) else f"bar {bar:g} {'kept' if kept[0] else 'MISSED'}"
    print(f"{name:28s} {peak:6.2f} x {time.process_time() - started:8.2f} s  {shown}", flush=True)


def write_network(width: int, folder: Path) -> tuple[Path, Path]:
    """Write a TorchScript network of about LAYERS width^2 weights, and its data."""
    hidden = [layer for _ in range(LAYERS) for layer in (nn.Linear(width, width), nn.ReLU())]
    model = nn.Sequential(*hidden, nn.Linear(width, 10)).eval()
    torch.jit.save(torch.jit.trace(model, torch.randn(2, width)), str(folder / "model.pt"))
    inputs = np.random.default_rng(0).normal(size=(EXAMPLES, width)).astype(np.float32)
    np.savez(folder / "data.npz", inputs=inputs, labels=np.arange(EXAMPLES) % 10)
    return folder / "model.pt", folder / "data.npz"


def measure_audit(folder: Path, method: str) -> bool:
    """Print and judge the peaks of opening, gradient and one cell of all weights, searched by `method`."""
    base, unit = read_bytes("VmRSS"), (folder / "model.pt").stat().st_size
    with watch(f"{method}: opening", base, unit):
        session = open_session(
            Source(folder / "model.pt", DataFile(folder / "data.npz"), threads=1, micro_batch=EXAMPLES)
        ).session
    with watch(f"{method}: gradient", base, unit, min(BARS.values())) as first:
        gradient, clean = compute_clean(session)
    [scope] = find_scopes(["model"], list(session.program.weights), {})
    evaluator = Evaluator(session, scope.tensors)
    cells = plan_cells(scope, evaluator.layout.size, [CorruptionSet(2.0, 0.1)])
    settings = SearchSettings(method, 1 if method == "first_order" else PASSES, random_trials=0)
    with watch(f"{method}: cell", base, unit, BARS[method]) as then:
        list(search_cells(evaluator, cells, gradient.flatten(scope.tensors), Pool(clean), settings))
    return all([*first, *then])


def measure_top() -> bool:
    """Print and judge top-n for a few n."""
    vector, kept = torch.randn(LONG, generator=torch.Generator().manual_seed(0)), True
    for count in (100, LONG // 100, LONG // 2):
        base, started = read_bytes("VmRSS"), time.process_time()
        with watch(f"top {count:,} of {LONG:,}", base, vector.nbytes):
            keep_largest(vector, count)
        share, seconds = (read_bytes("VmHWM") - base) / vector.nbytes, time.process_time() - started
        kept = kept and share <= TOP_SHARE and seconds <= TOP_SECONDS
    return kept


def main(arguments: Sequence[str] | None = None) -> int:
    """Run each measurement in a process of its own."""
    parser = argparse.ArgumentParser(description="Peak memory as a multiple of the weights.")
    parser.add_argument("--width", type=int, default=5000)
    parser.add_argument("--child", nargs=2, metavar=("WHAT", "FOLDER"), help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if asked.child:
        what, folder = asked.child
        return 0 if (measure_top() if what == "top" else measure_audit(Path(folder), what)) else 1
    with tempfile.TemporaryDirectory() as name:
        model, _ = write_network(asked.width, Path(name))
        print(f"weights {model.stat().st_size / 2**20:.0f} MiB; peak beyond what the process held, as a multiple of them")
        command = [sys.executable, "-m", "benchmarks.memory", "--child"]
        codes = [subprocess.run([*command, what, name], check=False).returncode for what in (*BARS, "top")]
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
