"""Bar: 5 GB of data are audited in a process that is held to 1 GB.

    python -m benchmarks.streaming [--bytes 5e9] [--limit 1000000000] [--format npz] [--folder FOLDER]

A small network and float32 rows, written here. The audit runs in a process of its own that may not allocate more than
0.8 of the limit (RLIMIT_DATA), imports included; what it had resident at most is read from the kernel at its end.
Beside it: the clean loss that numpy finds, on the same rows in float64. Exit code 1 when the process needed more than
the limit, or when the losses differ.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray
from torch import nn

from schemas.request import AuditRequest
from worker.audit import AuditInput, measure_audit

ALLOCATED = 0.8
"""The share of the limit that the process may allocate; its libraries' own code is resident too."""
WIDTH, CLASSES, BLOCK_ROWS = 1024, 10, 8192
TOLERANCE = 1e-5
Rows = NDArray[np.float32]


@dataclass(frozen=True)
class Held:
    """What the audit's process said of itself."""

    examples: int
    clean_loss: float
    loss_change: float
    peak_bytes: int
    cpu_s: float


def make_rows(count: int) -> Iterator[tuple[Rows, NDArray[np.int64]]]:
    """Yield seeded rows and labels, some at a time; a label is where the first ten numbers are largest."""
    for start in range(0, count, BLOCK_ROWS):
        generator = np.random.default_rng(start)
        rows = generator.random((min(BLOCK_ROWS, count - start), WIDTH), np.float32) * 2 - 1
        yield rows, rows[:, :CLASSES].argmax(1)


def write_data(path: Path, count: int, data_format: str) -> None:
    """Write the rows without ever holding them."""
    if data_format == "parquet":
        _write_parquet(path, count)
        return
    labels = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        with archive.open("inputs.npy", "w", force_zip64=True) as file:
            npy.write_array_header_1_0(file, {"shape": (count, WIDTH), "fortran_order": False, "descr": "<f4"})
            for rows, found in make_rows(count):
                file.write(rows.tobytes())
                labels.append(found)
        with archive.open("labels.npy", "w") as file:
            npy.write_array(file, np.concatenate(labels))


def _write_parquet(path: Path, count: int) -> None:
    import pyarrow as pa  # noqa: PLC0415 - only for this format
    from pyarrow import parquet  # noqa: PLC0415

    schema = pa.schema({"inputs": pa.list_(pa.float32(), WIDTH), "labels": pa.int64()})
    with parquet.ParquetWriter(path, schema) as writer:
        for rows, labels in make_rows(count):
            inputs = pa.FixedSizeListArray.from_arrays(rows.ravel(), WIDTH)
            writer.write_table(pa.table([inputs, pa.array(labels)], schema=schema))


def make_model(path: Path) -> nn.Module:
    """Write the network, which is right about some of the rows, and return it."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(WIDTH, 16), nn.ReLU(), nn.Linear(16, CLASSES)).eval()
    torch.jit.trace(network, torch.zeros(2, WIDTH)).save(str(path))
    return network


def compute_clean_loss(network: nn.Module, count: int) -> float:
    """Return the mean cross-entropy in float64, by numpy."""
    first, last = (
        [parameter.detach().double().numpy() for parameter in layer.parameters()]
        for layer in (network[0], network[2])  # type: ignore[index]
    )
    total = 0.0
    for rows, labels in make_rows(count):
        logits = np.maximum(rows.astype(np.float64) @ first[0].T + first[1], 0) @ last[0].T + last[1]
        largest = logits.max(1, keepdims=True)
        logs = logits - largest - np.log(np.exp(logits - largest).sum(1, keepdims=True))
        total -= float(logs[np.arange(len(labels)), labels].sum())
    return total / count


def audit_held(folder: Path, limit_bytes: int) -> Held:
    """Audit the data in a process that may not allocate more than the limit."""
    command = [sys.executable, "-m", "benchmarks.streaming", "--held", str(folder), "--limit", str(limit_bytes)]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, check=True)
    return Held(**json.loads(done.stdout))


def run_held(folder: Path, limit_bytes: int) -> None:
    """Be that process."""
    allocated = int(ALLOCATED * limit_bytes)
    resource.setrlimit(resource.RLIMIT_DATA, (allocated, allocated))
    uri = "artifact:sha256:" + "0" * 64
    request = AuditRequest.model_validate(
        {
            "model": {"uri": uri},
            "data": {"uri": uri},
            "sets": [{"norm": 2, "epsilon": [0.3]}],
            "scopes": ["model", "per_module"],
            "search": {"method": "first_order", "budget_passes": 1, "random_trials": 1},
        }
    )
    measured = measure_audit(AuditInput(request, folder / "model.pt", folder / "data", folder / "scratch"), lambda *_: None)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    held = Held(
        examples=measured.examples,
        clean_loss=measured.clean.loss,
        loss_change=measured.findings[0].measured.loss_change or 0.0,
        peak_bytes=read_peak_bytes(),
        cpu_s=usage.ru_utime + usage.ru_stime,
    )
    sys.stdout.write(json.dumps(vars(held)))


def read_peak_bytes() -> int:
    """Return what this process had resident at most; getrusage would count what it was before it became a program of its own."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def run(folder: Path, size_bytes: int, limit_bytes: int, data_format: str) -> tuple[Held, float]:
    """Write model and data, audit them, and return what the process needed and the clean loss that numpy finds."""
    count = size_bytes // (4 * WIDTH)
    network = make_model(folder / "model.pt")
    write_data(folder / "data", count, data_format)
    (folder / "scratch").mkdir()
    return audit_held(folder, limit_bytes), compute_clean_loss(network, count)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one row, and return 1 when the bar is not met."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bytes", type=float, default=5e9)
    parser.add_argument("--limit", type=int, default=10**9)
    parser.add_argument("--format", choices=("npz", "parquet"), default="npz")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--held", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.held is not None:
        run_held(given.held, given.limit)
        return 0
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        held, clean = run(Path(folder), int(given.bytes), given.limit, given.format)
    agree = abs(held.clean_loss - clean) <= TOLERANCE * clean
    print(f"{given.format}: {given.bytes / 1e9:g} GB, {held.examples} examples, limit {given.limit / 1e9:.3f} GB")
    print(f"resident at most {held.peak_bytes / 1e9:.3f} GB, {held.cpu_s:.0f} s of processor time")
    print(f"clean loss {held.clean_loss:.7f}, by numpy {clean:.7f}; a corruption of norm 0.3 adds {held.loss_change:.3f}")
    return 0 if agree and held.peak_bytes <= given.limit else 1


if __name__ == "__main__":
    sys.exit(main())
