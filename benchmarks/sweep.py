"""Bar: a per-module sweep is no slower than the plain script.

    python -m benchmarks.sweep [--repeats N] [--only NET ...] [--clock cpu|wall] [--whole]

3 epsilons x 2 norms in every module, first order, no random trials, batch 32, one thread, on the same weights, data and
cells. Counted on both sides: the processor seconds (--clock wall: of the wall) from the loaded model to the last cell, so
gradient, clean pass and cells. Script and engine runs take turns; each figure is the median of its repeats.
ratio = script seconds / engine seconds. Exit code 1 when a ratio is below 1 or fewer than SHARED_CELLS of the script's
cells are also the engine's: an exporter may fold a weight (GPT-2's positions) or split a tied one, and then that module's
cells are other ones. --whole: the same with one scope of all weights, where nothing clean can be shared; an exporter that splits
a tied weight makes these cells other ones too.

The example networks are trained ones on their held-out data; the others are the test networks of tests/architectures
with random weights on random inputs, which cost the same to run as trained ones.
"""

import argparse
import gc
import logging
import math
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.first_order import Cells, Clock, Grid, Run, SweepResult, open_run, run_engine, run_yardstick
from tests.architectures import ARCHITECTURES, Architecture
from tests.architectures.exports import export_onnx, export_pt2, export_torchscript
from tests.fusing import fuse_batch_norm

ARTIFACTS = Path(__file__).parent.parent / "examples" / "artifacts"
GRID = Grid(norms=(2.0, math.inf), epsilons=(0.01, 0.1, 1.0))
BATCH = 32
TRAINED = {"digits_cnn": "digits", "digits_mlp": "digits", "characters": "text"}
RANDOM = ("resnet18", "mobilenetv3", "vit", "gpt2")
RANDOM_EXAMPLES = 128
FORMATS = ("onnx", "torchscript", "pt2")
SHARED_CELLS = 0.85


@dataclass(frozen=True)
class Files:
    """One network by format, and its data. The trained ones are not shipped as torch.export files."""

    models: dict[str, Path]
    data: Path


@dataclass(frozen=True)
class Timing:
    """Seconds per cell of the script and of the engine in each format, and how many cells are shared with the script."""

    script: float
    engine: dict[str, float]
    cells: int
    shared: dict[str, int]

    @property
    def is_comparable(self) -> bool:
        """Whether nearly all cells are the same on both sides."""
        return min(self.shared.values()) >= SHARED_CELLS * self.cells


def prepare(name: str, folder: Path) -> Files:
    """Return the files of a shipped network, or export a test network and draw its data."""
    if name in TRAINED:
        shipped = {"onnx": ARTIFACTS / f"{name}.onnx", "torchscript": ARTIFACTS / f"{name}.pt"}
        return Files(shipped, ARTIFACTS / f"{TRAINED[name]}.npz")
    architecture = ARCHITECTURES[name]
    model = fuse_batch_norm(architecture.build())
    data = folder / f"{name}.npz"
    draw_data(architecture, model, data)
    exported = {
        "onnx": export_onnx(architecture, model, folder / f"{name}.onnx"),
        "torchscript": export_torchscript(architecture, model, folder / f"{name}.pt", "trace"),
        "pt2": export_pt2(architecture, model, folder / f"{name}.pt2"),
    }
    return Files(exported, data)


def draw_data(architecture: Architecture, model: torch.nn.Module, path: Path) -> None:
    """Write seeded inputs and labels that fit the network's one input and its logits."""
    [inputs] = architecture.make_example(RANDOM_EXAMPLES).values()
    with torch.no_grad():
        logits = model(inputs[:2])
    shape = (RANDOM_EXAMPLES, *logits.shape[1:-1])
    labels = torch.randint(logits.shape[-1], shape, generator=torch.Generator().manual_seed(0))
    np.savez(path, inputs=inputs.numpy(), labels=labels.numpy())


def time_network(files: Files, repeats: int, clock: Clock, cells: Cells = "per_module") -> Timing:
    """Run script and engine in turns and return medians per cell."""
    runs: dict[str, list[SweepResult]] = {kind: [] for kind in ("script", *files.models)}
    for _ in range(repeats):
        runs["script"].append(
            run_yardstick(Run(files.models["torchscript"], files.data, GRID, batch=BATCH, clock=clock, cells=cells))
        )
        for kind, path in files.models.items():
            run = Run(path, files.data, GRID, batch=BATCH, clock=clock, cells=cells)
            session = open_run(run)
            gc.collect()
            runs[kind].append(run_engine(session, run))
    keys = {kind: results[0].cells.keys() for kind, results in runs.items()}
    seconds = {kind: statistics.median(result.seconds for result in results) / len(keys[kind]) for kind, results in runs.items()}
    shared = {kind: len(keys[kind] & keys["script"]) for kind in files.models}
    return Timing(seconds["script"], {kind: seconds[kind] for kind in files.models}, len(keys["script"]), shared)


def report(name: str, timing: Timing) -> dict[str, float]:
    """Print one network's lines and return its ratios by format."""
    ratios = {kind: timing.script / seconds for kind, seconds in timing.engine.items()}
    for kind, ratio in ratios.items():
        engine = f"{1e3 * timing.script:13.2f} {1e3 * timing.engine[kind]:13.2f} {ratio:7.2f}"
        print(f"{name:14s} {kind:12s} {timing.cells:5d} {timing.shared[kind]:6d} {engine}", flush=True)
    return ratios


def main(arguments: Sequence[str] | None = None) -> int:
    """Time the networks that the command line names and print the ratios."""
    parser = argparse.ArgumentParser(description="Time a per-module sweep against the plain script.")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=[*TRAINED, *RANDOM], default=[*TRAINED, *RANDOM], metavar="NET")
    parser.add_argument("--clock", choices=["cpu", "wall"], default="cpu", help="cpu: not moved by what else the machine does")
    parser.add_argument("--whole", action="store_true", help="one scope of all weights in place of every module")
    asked = parser.parse_args(arguments)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # the exporter warns that torchvision is missing
    print(
        f"{'network':14s} {'format':12s} {'cells':>5s} {'shared':>6s} {'script ms/cell':>13s} {'ours ms/cell':>13s} {'ratio':>6s}"
    )
    ratios: dict[str, list[float]] = {kind: [] for kind in FORMATS}
    complete = True
    with tempfile.TemporaryDirectory() as folder:
        for name in asked.only:
            timing = time_network(
                prepare(name, Path(folder)), asked.repeats, asked.clock, "model" if asked.whole else "per_module"
            )
            complete = complete and timing.is_comparable
            for kind, ratio in report(name, timing).items():
                ratios[kind].append(ratio)
    measured = {kind: values for kind, values in ratios.items() if values}
    for kind, values in measured.items():
        print(f"geometric mean, {kind}: {statistics.geometric_mean(values):.2f}; slowest {min(values):.2f}")
    slow = min(min(values) for values in measured.values()) < 1
    return 1 if slow or not complete else 0


if __name__ == "__main__":
    sys.exit(main())
