"""Bar: files that ONNX Runtime's optimiser and quantiser write load, run as in the runtime, and have gradients.

    python -m benchmarks.optimised [--networks NAME ...] [--treatments NAME ...]

Each network is exported by the default exporter, then optimised (basic, extended, all) or quantised: static QDQ and QOperator
with weights in int8 per tensor and per channel, activations in uint8, calibrated on 32 random examples; dynamic per tensor and
per channel, and per tensor after the optimiser; QDQ per channel, then optimised. A cell holds the largest difference to ONNX
Runtime on 16 further examples and, where it is above 1e-4, the share of examples that it happens on: two right kernels may round
a value that lies between two codes to different sides. Passed: the tolerance that every audit asks for
(worker/engine/models/load.py), and a finite gradient for every weight. Exit code 1 if any file that could be written does not
pass; none is excused.
"""

import argparse
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from schemas.errors import FaultlineError
from tests.architectures import ARCHITECTURES, Architecture
from tests.architectures.comparison import compute_program_gradients
from tests.architectures.exports import export_onnx
from tests.fusing import fuse_batch_norm
from worker.engine.models.load import PARITY_NEAR_LIMIT, measure_parity
from worker.engine.models.onnx import load_onnx, run_reference
from worker.engine.models.program import Program

NETWORKS = (
    "residual_cnn",
    "unet",
    "resnet18",
    "mobilenetv3",
    "efficientnet",
    "convnext",
    "vit",
    "swin",
    "transformer_encoder",
    "bert",
    "gpt2",
    "t5_encoder",
    "llama",
    "lstm",
    "gru",
)
WITH_MASK = frozenset({"gpt2"})
"""A causal mask of minus infinity: the quantiser, left to itself, writes scales of NaN. Only products are quantised."""
EXAMPLES = 16

Treatment = Callable[[Architecture, Path, Path], None]


class Batches(CalibrationDataReader):  # type: ignore[misc]
    """Random examples, for calibration."""

    def __init__(self, architecture: Architecture) -> None:
        self._batches = iter([architecture.make_example(batch=8, seed=seed) for seed in range(4)])

    def get_next(self) -> dict[str, object] | None:
        """Return the next batch, None after the last."""
        batch = next(self._batches, None)
        return None if batch is None else {name: value.numpy() for name, value in batch.items()}


def optimise(level: str, architecture: Architecture, source: Path, target: Path) -> None:
    """Write what ONNX Runtime's optimiser makes of a file."""
    del architecture
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_ENABLE_{level.upper()}")
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])


def _prepare(source: Path) -> Path:
    prepared = source.with_suffix(".prepared.onnx")
    if not prepared.exists():
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    return prepared


def quantise(form: QuantFormat, per_channel: bool, architecture: Architecture, source: Path, target: Path) -> None:  # noqa: FBT001
    """Write what ONNX Runtime's static quantiser makes of a file."""
    kinds = ["Conv", "MatMul", "Gemm", "Gather"] if architecture.name in WITH_MASK else None
    quantize_static(
        _prepare(source),
        target,
        Batches(architecture),
        quant_format=form,
        op_types_to_quantize=kinds,
        per_channel=per_channel,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def quantise_dynamically(per_channel: bool, architecture: Architecture, source: Path, target: Path) -> None:  # noqa: FBT001
    """Write what ONNX Runtime's dynamic quantiser makes of a file."""
    del architecture
    quantize_dynamic(_prepare(source), target, per_channel=per_channel)


def quantise_and_optimise(architecture: Architecture, source: Path, target: Path) -> None:
    """Write what ONNX Runtime's optimiser makes, at the highest level, of a file that its static quantiser wrote."""
    quantised = source.with_suffix(".static.onnx")
    quantise(QuantFormat.QDQ, True, architecture, source, quantised)  # noqa: FBT003
    optimise("all", architecture, quantised, target)


def optimise_and_quantise(architecture: Architecture, source: Path, target: Path) -> None:
    """Write what ONNX Runtime's dynamic quantiser makes of a file that its optimiser wrote."""
    optimised = source.with_suffix(".extended.onnx")
    optimise("extended", architecture, source, optimised)
    quantize_dynamic(optimised, target)


TREATMENTS: dict[str, Treatment] = {
    **{level: partial(optimise, level) for level in ("basic", "extended", "all")},
    "qdq": partial(quantise, QuantFormat.QDQ, False),  # noqa: FBT003
    "qdq/ch": partial(quantise, QuantFormat.QDQ, True),  # noqa: FBT003
    "qop": partial(quantise, QuantFormat.QOperator, False),  # noqa: FBT003
    "qop/ch": partial(quantise, QuantFormat.QOperator, True),  # noqa: FBT003
    "dynamic": partial(quantise_dynamically, False),  # noqa: FBT003
    "dynamic/ch": partial(quantise_dynamically, True),  # noqa: FBT003
    "ext+dyn": optimise_and_quantise,
    "qdq+all": quantise_and_optimise,
}


@dataclass(frozen=True)
class Row:
    """One network after one treatment. differing: the share of examples that differ by more than rounding in float32."""

    network: str
    treatment: str
    difference: float = float("nan")
    differing: float = 0.0
    problem: str = ""

    def __str__(self) -> str:
        if self.problem:
            return "!"
        return f"{self.difference:.0e}" + (f" ({self.differing:.0%})" if self.differing else "")


def treat(architecture: Architecture, treatment: str, folder: Path) -> Path:
    """Export a network once, and return the file after the treatment."""
    source = folder / f"{architecture.name}.onnx"
    if not source.exists():
        export_onnx(architecture, fuse_batch_norm(architecture.build()), source)
    target = folder / f"{architecture.name}.{treatment.replace('/', '_')}.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        TREATMENTS[treatment](architecture, source, target)
    return target


def measure(architecture: Architecture, treatment: str, folder: Path) -> Row:
    """Treat a network, load the file, and hold it against the runtime."""
    path = treat(architecture, treatment, folder)
    inputs = architecture.make_example(batch=EXAMPLES, seed=9)
    try:
        program = load_onnx(path)
        difference = measure_parity(path, program, inputs, 1)
    except FaultlineError as error:
        return Row(architecture.name, treatment, problem=f"{type(error).__name__}: {error}")
    gradients = compute_program_gradients(program, inputs)
    lost = [name for name in program.weights if name not in gradients or not bool(gradients[name].isfinite().all())]
    problem = f"no finite gradient for {', '.join(lost)}" if lost else ""
    return Row(architecture.name, treatment, difference, count_differing(program, path, inputs), problem)


def count_differing(program: Program, path: Path, inputs: dict[str, torch.Tensor]) -> float:
    """Return the share of examples whose outputs differ from the runtime's by more than PARITY_NEAR_LIMIT."""
    with torch.no_grad():
        ours = program.forward({}, inputs)
    differs = torch.zeros(EXAMPLES, dtype=torch.bool)
    for name, value in run_reference(path, inputs, 1).items():
        differs |= ((ours[name] - value).abs() / (1 + value.abs())).flatten(1).amax(1) > PARITY_NEAR_LIMIT
    return float(differs.float().mean())


def format_table(rows: Sequence[Row], treatments: Sequence[str]) -> str:
    """Return one line per network."""
    by_place = {(row.network, row.treatment): row for row in rows}
    lines = [f"{'difference to the runtime':26s}" + "".join(f"{treatment:>14s}" for treatment in treatments)]
    for network in dict.fromkeys(row.network for row in rows):
        cells = "".join(f"{by_place[network, treatment]!s:>14s}" for treatment in treatments)
        lines += [f"{network:26s}{cells}"]
    for treatment in treatments:
        own = [row for row in rows if row.treatment == treatment]
        lines.append(f"{treatment}: {sum(not row.problem for row in own)} of {len(own)} passed")
    lines += [f"{row.network} {row.treatment}: {row.problem}" for row in rows if row.problem]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; return 0 if every file passes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS, metavar="NAME")
    parser.add_argument("--treatments", nargs="+", default=list(TREATMENTS), choices=list(TREATMENTS), metavar="NAME")
    options = parser.parse_args(arguments)
    logging.disable(logging.WARNING)  # the exporter and the quantiser report each of their passes
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            measure(ARCHITECTURES[network], treatment, Path(folder))
            for network in options.networks
            for treatment in options.treatments
        ]
    print(format_table(rows, options.treatments))
    return 1 if any(row.problem for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
