"""Bar: a per-module sweep is no slower than the plain script.

    python -m benchmarks.sweep [--repeats N] [--only NET ...] [--clock cpu|wall] [--whole] [--plot FILE.svg]

3 epsilons x 2 norms in every module, first order, no random trials, batch 32, one thread, on the same weights, data and
cells. Counted on both sides: the processor seconds (--clock wall: of the wall) from the loaded model to the last cell, so
gradient, clean pass and cells. Script and engine take turns, a format after the other; each figure is the median of its repeats.
ratio = script seconds / engine seconds. Exit code 1 when a ratio is below 1 or fewer than SHARED_CELLS of the script's
cells are also the engine's: an exporter may fold a weight (GPT-2's positions) or split a tied one, and then that module's
cells are other ones. --whole: the same with one scope of all weights, where nothing clean can be shared; an exporter that splits
a tied weight makes these cells other ones too. The roofline is what no method can avoid when every cell runs the whole network:
the bare forward pass over the data, and the bare gradient's share of a cell, in TorchScript. Sharing clean parts goes below it.

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
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.chart import draw_ratios
from benchmarks.first_order import (
    Cells,
    Clock,
    Grid,
    Passes,
    Run,
    SweepResult,
    open_run,
    run_engine,
    run_yardstick,
    time_passes,
)
from tests.architectures import ARCHITECTURES, Architecture
from tests.architectures.exports import export_onnx, export_pt2, export_torchscript
from tests.fusing import fuse_batch_norm

ARTIFACTS = Path(__file__).parent.parent / "examples" / "artifacts"
GRID = Grid(norms=(2.0, math.inf), epsilons=(0.01, 0.1, 1.0))
BATCH = 32
TRAINED = {"digits_cnn": "digits", "digits_mlp": "digits", "characters": "text"}
RANDOM = ("resnet18", "mobilenetv3", "vit", "gpt2")
RANDOM_EXAMPLES = 128
SHARED_CELLS = 0.85
ASKED = {"onnx": 1.8, "torchscript": 1.2, "pt2": 1.2}
"""Ratios that are asked for, per module, on the networks that are no examples."""
SHOWN = {"onnx": "ONNX", "torchscript": "TorchScript", "pt2": ".pt2"}


@dataclass(frozen=True)
class Files:
    """One network in every format that there is of it, and its data; the script reads TorchScript."""

    models: dict[str, Path]
    data: Path


@dataclass(frozen=True)
class Timing:
    """Seconds per cell of the script, the roofline and the engine in each format; how many cells are shared with the script."""

    script: float
    roofline: float
    engine: dict[str, float]
    cells: int
    shared: dict[str, int]

    @property
    def ratios(self) -> dict[str, float]:
        """Script seconds / engine seconds, by format."""
        return {kind: self.script / seconds for kind, seconds in self.engine.items()}

    @property
    def is_comparable(self) -> bool:
        """Whether nearly all cells are the same on both sides."""
        return min(self.shared.values()) >= SHARED_CELLS * self.cells


def prepare(name: str, folder: Path) -> Files:
    """Return the files of a shipped network, or export a test network and draw its data."""
    if name in TRAINED:
        models = {"onnx": ARTIFACTS / f"{name}.onnx", "torchscript": ARTIFACTS / f"{name}.pt"}
        return Files(models, ARTIFACTS / f"{TRAINED[name]}.npz")
    architecture = ARCHITECTURES[name]
    model = fuse_batch_norm(architecture.build())
    data = folder / f"{name}.npz"
    draw_data(architecture, model, data)
    models = {
        "onnx": export_onnx(architecture, model, folder / f"{name}.onnx"),
        "torchscript": export_torchscript(architecture, model, folder / f"{name}.pt", "trace"),
        "pt2": export_pt2(architecture, model, folder / f"{name}.pt2"),
    }
    return Files(models, data)


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
    bare: list[Passes] = []
    script = Run(files.models["torchscript"], files.data, GRID, batch=BATCH, clock=clock, cells=cells)
    for _ in range(repeats):
        runs["script"].append(run_yardstick(script))
        bare.append(time_passes(script))
        for kind, path in files.models.items():
            run = replace(script, model=path)
            session = open_run(run)
            gc.collect()
            runs[kind].append(run_engine(session, run))
    keys = {kind: results[0].cells.keys() for kind, results in runs.items()}
    seconds = {kind: statistics.median(result.seconds for result in results) / len(keys[kind]) for kind, results in runs.items()}
    shared = {kind: len(keys[kind] & keys["script"]) for kind in files.models}
    roofline = statistics.median(passes.forward + passes.gradient / len(keys["script"]) for passes in bare)
    return Timing(seconds["script"], roofline, {kind: seconds[kind] for kind in files.models}, len(keys["script"]), shared)


def report(name: str, timing: Timing) -> None:
    """Print one network's lines."""
    for kind, ratio in timing.ratios.items():
        figures = [1e3 * seconds for seconds in (timing.script, timing.roofline, timing.engine[kind])]
        engine = "".join(f"{figure:12.2f}" for figure in figures)
        print(f"{name:14s} {kind:12s} {timing.cells:5d} {timing.shared[kind]:6d} {engine} {ratio:7.2f}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Time the networks that the command line names and print the ratios."""
    parser = argparse.ArgumentParser(description="Time a per-module sweep against the plain script.")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=[*TRAINED, *RANDOM], default=[*TRAINED, *RANDOM], metavar="NET")
    parser.add_argument("--clock", choices=["cpu", "wall"], default="cpu", help="cpu: not moved by what else the machine does")
    parser.add_argument("--whole", action="store_true", help="one scope of all weights in place of every module")
    parser.add_argument("--plot", type=Path, help="write the ratios as a bar chart, SVG")
    asked = parser.parse_args(arguments)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # the exporter warns that torchvision is missing
    columns = "".join(f"{name:>12s}" for name in ("script", "roofline", "ours"))
    print(f"{'network':14s} {'format':12s} cells shared {columns}   ratio; ms per cell")
    cells: Cells = "model" if asked.whole else "per_module"
    timings: dict[str, Timing] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in asked.only:
            timings[name] = time_network(prepare(name, Path(folder)), asked.repeats, asked.clock, cells)
            report(name, timings[name])
    for kind in ("onnx", "torchscript", "pt2"):
        ratios = [timing.ratios[kind] for name, timing in timings.items() if name in RANDOM]
        if ratios:
            mean = statistics.geometric_mean(ratios)
            print(f"geometric mean without the example networks, {kind}: {mean:.2f}; slowest {min(ratios):.2f}")
    if asked.plot:
        title = f"Times faster than the plain script: {'one scope of all weights' if asked.whole else 'every module apart'}"
        draw_ratios(
            title,
            "3 epsilons x 2 norms, first order, batch 32, one CPU thread, processor time; higher is better",
            {name: {SHOWN[kind]: ratio for kind, ratio in timing.ratios.items()} for name, timing in timings.items()},
            {}
            if asked.whole
            else {name: {SHOWN[kind]: bar for kind, bar in ASKED.items()} for name in timings if name in RANDOM},
            asked.plot,
        )
    slow = min(min(timing.ratios.values()) for timing in timings.values()) < 1
    return 1 if slow or not all(timing.is_comparable for timing in timings.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
