"""Bar: a forward and a backward pass of the interpreter costs little more than the eager network's.

    python -m benchmarks.interpreter [--networks NAME ...] [--routes ROUTE ...] [--rounds N]

The 17 test networks, batch 8, one thread, gradients of all weights; per network and route the ratio of processor seconds,
interpreter / eager. Both sides run the same loss and take turns, pass by pass, so that both see the same machine; each
figure is the median of the rounds' ratios. The interpreter runs as a search does: by its plan, with every weight given as a
leaf. BatchNorm is folded in eager before the export, because exporters fold it. Exit code 1 when a network is above the bar
of its kind; networks of a few small layers, where a pass is nothing but calls, have none.
"""

import argparse
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from schemas.errors import FaultlineError
from tests.architectures import ARCHITECTURES, Architecture, make_distinct
from tests.architectures.comparison import (
    Gradients,
    compute_eager_gradients,
    compute_relative_error,
    rename_by_value,
    weigh,
)
from tests.architectures.exports import export_onnx, export_pt2, export_torchscript
from tests.fusing import fuse_batch_norm
from worker.engine.models.clean import CleanProgram
from worker.engine.models.load import load_program
from worker.engine.models.program import Program
from worker.engine.models.split import SplitProgram
from worker.engine.opening import fix_numerics

BATCH = 8
BARS = {"convolutional": 1.3, "vision transformer": 1.3, "transformer": 1.5, "recurrent": 2.0}
KINDS = {
    "residual_cnn": "convolutional",
    "unet": "convolutional",
    "resnet18": "convolutional",
    "mobilenetv3": "convolutional",
    "efficientnet": "convolutional",
    "convnext": "convolutional",
    "vit": "vision transformer",
    "swin": "vision transformer",
    "transformer_encoder": "transformer",
    "bert": "transformer",
    "gpt2": "transformer",
    "t5_encoder": "transformer",
    "llama": "transformer",
    "lstm": "recurrent",
    "gru": "recurrent",
}
ROUTES = ("onnx", "torchscript", "pt2")
WARM_UP = 3
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Row:
    """One network by one route. eager, ours: milliseconds of a forward and a backward pass, medians."""

    network: str
    route: str
    eager: float = float("nan")
    ours: float = float("nan")
    ratio: float = float("nan")
    problem: str = ""

    @property
    def bar(self) -> float | None:
        """The most that the ratio may be."""
        return BARS.get(KINDS.get(self.network, ""))

    @property
    def passes(self) -> bool:
        """Whether the ratio is within the bar, if there is one."""
        return not self.problem and (self.bar is None or self.ratio <= self.bar)


def measure(architecture: Architecture, route: str, rounds: int, folder: Path) -> Row:
    """Export one network and time both sides in turns."""
    model = fuse_batch_norm(architecture.build())
    make_distinct(model)
    path = folder / f"{architecture.name}.{route}"
    if route == "onnx":
        export_onnx(architecture, model, path)
    elif route == "pt2":
        export_pt2(architecture, model, path)
    else:
        export_torchscript(architecture, model, path, "trace")
    try:
        program = load_program(path)
    except FaultlineError as problem:
        return Row(architecture.name, route, problem=f"{type(problem).__name__}: {problem}")
    inputs = architecture.make_example(BATCH, seed=1)
    eager_pass, our_pass = make_eager(model, inputs), make_ours(program, inputs)
    error = compare_gradients(program, model, eager_pass(), our_pass())
    if not error <= TOLERANCE:
        return Row(architecture.name, route, problem=f"the gradients differ by {error:.1e}")
    sides: tuple[Callable[[], object], ...] = (eager_pass, our_pass)
    for run in sides * WARM_UP:
        run()
    seconds = [tuple(map(time_pass, sides)) for _ in range(rounds)]
    eager, ours = (statistics.median(side) for side in zip(*seconds, strict=True))
    return Row(architecture.name, route, 1e3 * eager, 1e3 * ours, statistics.median(b / a for a, b in seconds))


def compare_gradients(program: Program, model: nn.Module, expected: Gradients, found: Gradients) -> float:
    """Return the relative difference of both sides' gradients: what is timed is the same computation."""
    return compute_relative_error(found if set(found) == set(expected) else rename_by_value(program, found, model), expected)


def make_eager(model: nn.Module, inputs: Mapping[str, Tensor]) -> Callable[[], Gradients]:
    """Return a pass of the network itself."""
    return lambda: compute_eager_gradients(model, inputs)


def make_ours(program: Program, inputs: Mapping[str, Tensor]) -> Callable[[], Gradients]:
    """Return a pass of the interpreter on corrupted weights, as a step of the search makes it."""
    split = SplitProgram(CleanProgram(program, 0), frozenset(program.weights))
    boundary = split.run_clean(0, inputs)
    leaves = {name: weight.detach().clone().requires_grad_() for name, weight in program.weights.items()}

    def run() -> Gradients:
        outputs = split.run_corrupted(boundary, leaves)
        loss = weigh([outputs[name] for name in program.outputs])
        given: dict[str, Tensor | None] = dict(
            zip(leaves, torch.autograd.grad(loss, list(leaves.values()), allow_unused=True), strict=True)
        )
        return {name: gradient for name, gradient in given.items() if gradient is not None}

    return run


def time_pass(run: Callable[[], object]) -> float:
    """Return the processor seconds of one pass."""
    started = time.process_time()
    run()
    return time.process_time() - started


def format_table(rows: Sequence[Row]) -> str:
    """Return one line per network and route."""
    lines = [f"{'network':20s} {'route':12s} {'eager ms':>9s} {'ours ms':>9s} {'ratio':>6s} {'bar':>5s}"]
    for row in rows:
        bar = "" if row.bar is None else f"{row.bar:.1f}"
        said = row.problem or ("" if row.passes else "above the bar")
        lines.append(
            f"{row.network:20s} {row.route:12s} {row.eager:9.2f} {row.ours:9.2f} {row.ratio:6.2f} {bar:>5s} {said}".rstrip()
        )
    judged = [row for row in rows if row.bar is not None]
    lines.append(f"{sum(row.passes for row in judged)} of {len(judged)} within their bar")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; return 0 if every network is within its bar."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--networks", nargs="+", default=list(ARCHITECTURES), choices=list(ARCHITECTURES), metavar="NAME")
    parser.add_argument("--routes", nargs="+", default=list(ROUTES), choices=ROUTES, metavar="ROUTE")
    parser.add_argument("--rounds", type=int, default=41)
    options = parser.parse_args(arguments)
    logging.disable(logging.WARNING)  # the ONNX exporter reports each of its passes
    fix_numerics(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            measure(ARCHITECTURES[network], route, options.rounds, Path(folder))
            for network in options.networks
            for route in options.routes
        ]
    print(format_table(rows))
    return 0 if all(row.passes for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
