"""The test networks in every ONNX opset that PyTorch's two exporters write: outputs against the runtime, gradients against eager.

    python -m benchmarks.opsets [--networks NAME ...] [--exporters NAME ...] [--opsets N ...]

One row per network and exporter. What an exporter cannot write (it fails, writes another opset than it was asked
for, or a file that ONNX's checker or ONNX Runtime refuses) is printed apart. Exit code 1 if a file that was written does not
pass.
"""

import argparse
import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import onnx
import onnx.checker
from torch import nn

from benchmarks.parity import Row, compare, format_cell
from schemas.errors import ModelRefused
from tests.architectures import ARCHITECTURES, Architecture, make_distinct
from tests.architectures.exports import export_onnx, export_onnx_traced
from tests.fusing import fuse_batch_norm
from worker.engine.models.load import FORMATS
from worker.engine.models.onnx import run_reference

OPSETS = (11, 13, 17, 18, 20, 21, 23, 25)
"""Defaults of the last years and what users ask for; the last is the newest that PyTorch writes every network in."""
EXPORTERS: dict[str, Callable[[Architecture, nn.Module, Path, int], Path]] = {
    "default": export_onnx,
    "traced": export_onnx_traced,
}
TRACED_NEWEST = 23
"""The older exporter ends here."""


class NotWrittenError(Exception):
    """The exporter did not write the opset; the message says what it did."""


def write(architecture: Architecture, model: nn.Module, path: Path, exporter: str, opset: int) -> None:
    """Export a network at an opset, or raise NotWrittenError."""
    if exporter == "traced" and opset > TRACED_NEWEST:
        message = f"it ends at opset {TRACED_NEWEST}"
        raise NotWrittenError(message)
    try:
        with _without_output():
            EXPORTERS[exporter](architecture, model, path, opset)
    except Exception as error:
        message = f"{type(error).__name__}: {str(error).splitlines()[0][:160]}"
        raise NotWrittenError(message) from error
    written = onnx.load(path)
    version = {entry.domain: entry.version for entry in written.opset_import}[""]
    if version != opset:
        message = f"it writes opset {version} instead"
        raise NotWrittenError(message)
    try:
        onnx.checker.check_model(written)
        run_reference(path, architecture.make_example(batch=6, seed=1), threads=1)
    except (onnx.checker.ValidationError, ModelRefused) as error:
        got = error.faults[0].got if isinstance(error, ModelRefused) else str(error)
        message = f"ONNX's checker or runtime refuses what it writes: {got.strip().splitlines()[0][:120]}"
        raise NotWrittenError(message) from error


@contextlib.contextmanager
def _without_output() -> Iterator[None]:
    """Nothing reaches the terminal: the older exporter prints the graph that it failed on, from C++."""
    sys.stdout.flush()
    kept = os.dup(1)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        try:
            yield
        finally:
            os.dup2(kept, 1)
            os.close(kept)


def measure(networks: Sequence[str], exporters: Sequence[str], opsets: Sequence[int]) -> tuple[list[Row], dict[str, list[str]]]:
    """Return one row per file that was written, and what was not, by reason."""
    rows: list[Row] = []
    missing: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in networks:
            architecture = ARCHITECTURES[name]
            model = fuse_batch_norm(architecture.build())
            make_distinct(model)
            for exporter in exporters:
                for opset in opsets:
                    path = Path(folder) / "model.onnx"
                    try:
                        write(architecture, model, path, exporter, opset)
                    except NotWrittenError as error:
                        missing.setdefault(f"{exporter} at opset {opset}: {error}", []).append(name)
                    else:
                        rows.append(compare(architecture, f"{exporter} {opset}", model, path, FORMATS["onnx"]))
    return rows, missing


def format_table(rows: Sequence[Row], missing: dict[str, list[str]], exporters: Sequence[str], opsets: Sequence[int]) -> str:
    """Return one line per network and exporter with the figures of every opset, then what no exporter wrote."""
    cells = {(row.network, row.route): format_cell(row) for row in rows}
    lines = [f"{'output difference / gradient error':36s}" + "".join(f"{opset:>16d}" for opset in opsets)]
    for network in dict.fromkeys(row.network for row in rows):
        for exporter in exporters:
            found = [cells.get((network, f"{exporter} {opset}"), "-") for opset in opsets]
            lines.append(f"{network + ', ' + exporter:36s}" + "".join(f"{cell:>16s}" for cell in found))
    lines.append(f"passed (both within 1e-4): {sum(row.passed for row in rows)} of {len(rows)} files")
    lines += [f"{row.network} by {row.route}: {row.problem}" for row in rows if row.problem]
    if missing:
        lines += ["", "what the exporters cannot write:"]
    lines += [f"  {reason} ({len(names)}: {', '.join(names)})" for reason, names in sorted(missing.items())]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; return 0 if every file that was written passes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--networks", nargs="+", default=list(ARCHITECTURES), choices=list(ARCHITECTURES), metavar="NAME")
    parser.add_argument("--exporters", nargs="+", default=list(EXPORTERS), choices=list(EXPORTERS), metavar="NAME")
    parser.add_argument("--opsets", nargs="+", type=int, default=list(OPSETS), metavar="N")
    options = parser.parse_args(arguments)
    logging.disable(logging.WARNING)  # the exporters report each of their passes
    rows, missing = measure(options.networks, options.exporters, options.opsets)
    print(format_table(rows, missing, options.exporters, options.opsets))
    return 0 if rows and all(row.passed for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
