"""Which test networks load by which route, how far our outputs are from the runtime's, and our gradients from eager's.

    python -m benchmarks.parity [--networks NAME ...] [--routes ROUTE ...]

One table: 17 networks x {ONNX by the default exporter, torch.export, TorchScript traced, scripted, frozen}. BatchNorm is folded
in eager, in float64, before every export, because exporters fold it and gradients are then those of the folded weights. Exit code
1 if fewer than 14 networks pass by any one of the routes.
"""

import argparse
import logging
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor, nn

from schemas.errors import FaultlineError
from tests.architectures import ARCHITECTURES, Architecture, make_distinct
from tests.architectures.comparison import (
    compute_eager_gradients,
    compute_program_gradients,
    compute_relative_error,
    rename_by_value,
)
from tests.architectures.exports import TorchScriptRoute, export_onnx, export_pt2, export_torchscript
from tests.fusing import fuse_batch_norm
from worker.engine.models.load import FORMATS, Format
from worker.engine.models.program import Program

TOLERANCE = 1e-4
ENOUGH = 14
ROUTES: tuple[str, ...] = ("onnx", "pt2", *get_args(TorchScriptRoute))

Export = Callable[[Architecture, nn.Module, Path], Path]


@dataclass(frozen=True)
class Row:
    """One network by one route."""

    network: str
    route: str
    output_difference: float
    gradient_error: float
    problem: str = ""

    @property
    def passed(self) -> bool:
        """Whether it loaded and both figures are within the tolerance."""
        return not self.problem and self.output_difference <= TOLERANCE and self.gradient_error <= TOLERANCE


def measure(architecture: Architecture, route: str, folder: Path) -> Row:
    """Export one network, load the file, and compare it with its runtime and with eager on another batch."""
    model = fuse_batch_norm(architecture.build())
    make_distinct(model)
    path = folder / f"{architecture.name}.{route}"
    if route == "onnx":
        export_onnx(architecture, model, path)
    elif route == "pt2":
        export_pt2(architecture, model, path)
    else:
        export_torchscript(architecture, model, path, next(name for name in get_args(TorchScriptRoute) if name == route))
    return compare(architecture, route, model, path, FORMATS[route if route in FORMATS else "torchscript"])


def compare(architecture: Architecture, route: str, model: nn.Module, path: Path, reader: Format) -> Row:
    """Load a file and compare it with its runtime and with the network that it was written from."""
    inputs = architecture.make_example(batch=6, seed=1)
    try:
        program = reader.load(path)
        reference = reader.run_reference(path, inputs, 1)
        difference = compute_output_difference(program, inputs, reference)
        error = compute_gradient_error(program, model, inputs)
    except FaultlineError as problem:
        return Row(architecture.name, route, float("nan"), float("nan"), f"{type(problem).__name__}: {problem}")
    return Row(architecture.name, route, difference, error)


def compute_output_difference(program: Program, inputs: dict[str, Tensor], reference: dict[str, Tensor]) -> float:
    """Return the largest |ours - runtime's| / (1 + |runtime's|) over all outputs."""
    with torch.no_grad():
        outputs = program.forward({}, inputs)
    return max(float(((outputs[name] - value).abs() / (1 + value.abs())).max()) for name, value in reference.items())


def compute_gradient_error(program: Program, model: nn.Module, inputs: dict[str, Tensor]) -> float:
    """Return the relative error of the gradient over all parameters of the network; one that the file has lost counts whole."""
    found = compute_program_gradients(program, inputs)
    expected = compute_eager_gradients(model, inputs)
    if set(expected) != set(found):
        found = rename_by_value(program, found, model)
    return compute_relative_error(found, expected)


def format_table(rows: Sequence[Row], routes: Sequence[str]) -> str:
    """Return one line per network with the two figures of every route."""
    by_place = {(row.network, row.route): row for row in rows}
    lines = [f"{'output difference / gradient error':36s}" + "".join(f"{route:>22s}" for route in routes)]
    for network in dict.fromkeys(row.network for row in rows):
        cells = [by_place[network, route] for route in routes if (network, route) in by_place]
        lines.append(f"{network:36s}" + "".join(f"{format_cell(row):>22s}" for row in cells))
    passed = {route: sum(row.passed for row in rows if row.route == route) for route in routes}
    total = len({row.network for row in rows})
    lines.append(f"{'passed (both within 1e-4)':36s}" + "".join(f"{f'{passed[route]} of {total}':>22s}" for route in routes))
    lines += [f"{row.network} by {row.route}: {row.problem}" for row in rows if row.problem]
    return "\n".join(lines)


def format_cell(row: Row) -> str:
    """Return the two figures of a row, marked where they do not pass."""
    if row.problem:
        return "not loaded"
    return f"{row.output_difference:.0e} / {row.gradient_error:.0e}" + ("" if row.passed else " !")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; return 0 if every route asked for passes on enough networks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--networks", nargs="+", default=list(ARCHITECTURES), choices=list(ARCHITECTURES), metavar="NAME")
    parser.add_argument("--routes", nargs="+", default=list(ROUTES), choices=ROUTES, metavar="ROUTE")
    options = parser.parse_args(arguments)
    logging.disable(logging.WARNING)  # the ONNX exporter reports each of its passes
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            measure(ARCHITECTURES[network], route, Path(folder))
            for network in options.networks
            for route in options.routes
            if route != "script" or ARCHITECTURES[network].scriptable
        ]
    print(format_table(rows, options.routes))
    enough = min(ENOUGH, len(options.networks))
    return 0 if all(sum(row.passed for row in rows if row.route == route) >= enough for route in options.routes) else 1


if __name__ == "__main__":
    sys.exit(main())
