"""Bar: a 2.5 GiB ONNX model with external data is loaded and audited within 3.2 x its weights + 1 GiB of memory.

    python -m benchmarks.large [--gib 2.5] [--folder FOLDER] [--whole]

Writes a feed-forward network of equal square layers, its weights spread over five external files, and audits it in a fresh
process on the CPU: 64 examples, parity against ONNX Runtime first, then every layer by first order at one epsilon, without
random trials; with --whole the scope of all weights too. Prints the process's peak resident memory (`ru_maxrss`: pages of
mapped files count) and processor time. Exit code 1 above the limit. The model is deleted afterwards.
"""

import argparse
import math
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from schemas.request import AuditRequest
from worker.audit import AuditInput, measure_audit

WIDTH = 4096
FILES = 5
CLASSES = 10
EXAMPLES = 64
SHARE, SLACK_GIB = 3.2, 1.0
GIB = 2**30


def write_model(folder: Path, size_bytes: int) -> int:
    """Write the model and its data; return the bytes of all weights."""
    layers = max(1, round(size_bytes / (4 * WIDTH * WIDTH)))
    generator = np.random.default_rng(0)
    nodes, stored, current = [], [], "x"
    total = 0
    for layer in range(layers + 1):
        width = WIDTH if layer < layers else CLASSES
        weight = generator.standard_normal((WIDTH, width), dtype=np.float32) * np.float32(math.sqrt(2 / WIDTH))
        name, location = f"layers.{layer}.weight", f"weights_{layer * FILES // (layers + 1)}.bin"
        with (folder / location).open("ab") as file:
            offset = file.tell()
            weight.tofile(file)
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=weight.shape, data_location=TensorProto.EXTERNAL)
        for key, value in (("location", location), ("offset", str(offset)), ("length", str(weight.nbytes))):
            tensor.external_data.add(key=key, value=value)
        stored.append(tensor)
        total += weight.nbytes
        nodes.append(helper.make_node("MatMul", [current, name], [f"h{layer}" if layer < layers else "y"]))
        if layer < layers:
            nodes.append(helper.make_node("Relu", [f"h{layer}"], [f"r{layer}"]))
            current = f"r{layer}"
    graph = helper.make_graph(
        nodes,
        "large",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", CLASSES])],
        stored,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    inputs = generator.standard_normal((EXAMPLES, WIDTH), dtype=np.float32)
    np.savez(folder / "data.npz", inputs=inputs, labels=generator.integers(0, CLASSES, EXAMPLES))
    return total


def audit(folder: Path, scopes: Sequence[str]) -> None:
    """Audit the model in this process and print what it took."""
    start = read_peak_gib()
    request = AuditRequest.model_validate(
        {
            "model": {"uri": "artifact:sha256:" + "0" * 64},
            "data": {"uri": "artifact:sha256:" + "1" * 64},
            "scopes": scopes,
            "sets": [{"norm": 2, "epsilon": [0.1]}],
            "search": {"method": "first_order", "random_trials": 0},
        }
    )
    begun = time.process_time()
    phases: dict[str, float] = {}

    def note(phase: str, done: int, total: int) -> None:
        del done, total
        phases[phase] = read_peak_gib()

    scratch = folder / "scratch"
    scratch.mkdir()
    measurement = measure_audit(AuditInput(request, folder / "model.onnx", folder / "data.npz", scratch), note)
    loss = measurement.clean.loss
    print(f"parity {measurement.environment.parity:.1e}, {len(measurement.findings)} findings, clean loss {loss:.4f}")
    print("peak at the start of each phase, GiB: " + ", ".join(f"{phase} {peak:.2f}" for phase, peak in phases.items()))
    print(f"imports {start:.2f} GiB, processor time {time.process_time() - begun:.0f} s")


def read_peak_gib() -> float:
    """Return the process's largest resident memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB


def main(arguments: Sequence[str] | None = None) -> int:
    """Write, audit in a process of its own, delete; return 0 within the limit."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--gib", type=float, default=2.5)
    parser.add_argument("--folder", type=Path, help="where the model is written; a temporary folder unless given")
    parser.add_argument("--whole", action="store_true", help="audit all weights together too")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child is not None:
        audit(options.child, ["per_module", "model"] if options.whole else ["per_module"])
        print(f"{read_peak_gib():.3f}")
        return 0
    folder = Path(tempfile.mkdtemp(prefix="faultline-large-", dir=options.folder))
    try:
        weights = write_model(folder, int(options.gib * GIB))
        command = [sys.executable, "-m", "benchmarks.large", "--child", str(folder), *(["--whole"] if options.whole else [])]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.rstrip("\n").split("\n")
    finally:
        shutil.rmtree(folder)
    limit, peak = SHARE * weights / GIB + SLACK_GIB, float(told[-1])
    print("\n".join(told[:-1]))
    print(f"weights {weights / GIB:.2f} GiB, peak {peak:.2f} GiB, limit {limit:.2f} GiB ({SHARE} x weights + {SLACK_GIB:g} GiB)")
    return 0 if peak <= limit else 1


if __name__ == "__main__":
    sys.exit(main())
