"""ONNX's own conformance cases: one operator each, with inputs and the outputs that the standard asks for."""

import importlib
import pkgutil
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx
import onnx.backend.test
import onnx.backend.test.case.node as node_cases
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor

from schemas.errors import AuditError, Fault, ModelRefused, UnsupportedOperator
from worker.engine.models.onnx import load_onnx, run_reference

if TYPE_CHECKING:
    from onnx.backend.test.case.test_case import TestCase

RUNTIME_DIFFERS = {
    "test_resize_downsample_scales_linear_align_corners",
    "test_resize_downsample_scales_cubic_align_corners",
}
"""Fractional output sizes with aligned corners: PyTorch and ONNX Runtime, which is deployed, part from the standard's example."""
RANDOM = ("test_bernoulli", "test_training_dropout")
"""What random operators return is left open; their shapes and types are not."""

EIGHT_BITS = {name: getattr(torch, name) for name in ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz")}
ROUNDING = {torch.float16: 2**-9, torch.bfloat16: 2**-6}
"""Two units in the last place."""


Outcome = Literal["passed", "refused", "wrong", "failed", "untestable", "as the runtime"]


class UntestableError(Exception):
    """The case holds values that torch cannot hold (strings, numbers of less than a byte)."""


@dataclass(frozen=True)
class Verdict:
    """What became of a case, and why where it did not pass."""

    name: str
    outcome: Outcome
    reason: str = ""


@dataclass(frozen=True)
class Case:
    """One model with the inputs and outputs that belong together."""

    name: str
    model: onnx.ModelProto
    inputs: Sequence[Any]
    outputs: Sequence[Any]
    rtol: float
    atol: float


def find_node_cases() -> Iterator[Case]:
    """Generate the standard's node cases."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the cases overflow and divide by zero on purpose
        for module in pkgutil.iter_modules(node_cases.__path__):
            importlib.import_module(f"{node_cases.__name__}.{module.name}")
    found: list[TestCase] = node_cases._NodeTestCases
    for entry in found:
        (inputs, outputs), *_ = entry.data_sets or ()
        if entry.model is not None:
            yield Case(entry.name, entry.model, inputs, outputs, entry.rtol, entry.atol)


def find_stored_cases(kind: str) -> Iterator[tuple[str, Path]]:
    """Return the folders of cases that the onnx package carries as files."""
    root = Path(onnx.backend.test.__file__).parent / "data" / kind
    for folder in sorted(root.iterdir()):
        if (folder / "model.onnx").exists():
            yield folder.name, folder


def read_stored(folder: Path, kind: str) -> list[Tensor]:
    """Return a stored case's inputs or outputs in order."""
    files = sorted((folder / "test_data_set_0").glob(f"{kind}_*.pb"), key=lambda file: int(file.stem.rpartition("_")[2]))
    return [convert(TensorProto.FromString(file.read_bytes())) for file in files]


def convert(value: Any) -> Any:
    """Return a case's value as a tensor, a list of tensors or None; raises UntestableError."""
    if value is None:
        return None
    if isinstance(value, list | tuple):
        return [convert(entry) for entry in value]
    array = np.asarray(numpy_helper.to_array(value) if isinstance(value, TensorProto) else value)
    if array.dtype.name in EIGHT_BITS:
        return torch.from_numpy(np.array(array, order="C").view(np.uint8)).view(EIGHT_BITS[array.dtype.name])
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.astype(np.float32)).to(torch.bfloat16)
    try:
        return torch.from_numpy(np.array(array, order="C"))
    except TypeError as error:
        raise UntestableError(array.dtype.name) from error


def find_difference(found: Any, expected: Any, rtol: float, atol: float, *, random: bool = False) -> str | None:
    """Return in which way a value is not the expected one, or None."""
    if isinstance(expected, list):
        if not isinstance(found, list) or len(found) != len(expected):
            return "another list"
        return next((d for a, b in zip(found, expected, strict=True) if (d := find_difference(a, b, rtol, atol))), None)
    if expected is None or found is None:
        return None if found is expected else "one side is missing"
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return f"{tuple(found.shape)} {found.dtype} instead of {tuple(expected.shape)} {expected.dtype}"
    if random or not expected.numel():
        return None
    a, b = found.double(), expected.double()
    finite = b[b.isfinite()].abs()
    rtol = max(rtol, ROUNDING.get(expected.dtype, 0.0))
    atol = max(atol, 1e-6 * float(finite.max()) if expected.is_floating_point() and len(finite) else 0.0)
    return (
        None if torch.allclose(a, b, rtol, atol, equal_nan=True) else f"differs by {float((a - b).abs().nan_to_num().max()):.3g}"
    )


def judge(case: Case, path: Path) -> Verdict:
    """Load and run a case, written to `path`, and compare its outputs with the standard's."""
    path.write_bytes(case.model.SerializeToString())
    try:
        program = load_onnx(path)
    except (UnsupportedOperator, ModelRefused) as error:
        return Verdict(case.name, "refused", find_reason(error))
    try:
        inputs = dict(zip([spec.name for spec in program.inputs], map(convert, case.inputs), strict=True))
        expected = dict(zip(program.outputs, map(convert, case.outputs), strict=True))
    except UntestableError as error:
        return Verdict(case.name, "untestable", str(error))
    try:
        with torch.no_grad():
            found = program.forward({}, inputs)
    except Exception as error:  # noqa: BLE001 - any failure at run time is one of the results
        return Verdict(case.name, "failed", f"{type(error).__name__} {error}")
    random = case.name.startswith(RANDOM)
    differences = [find_difference(found[n], value, case.rtol, case.atol, random=random) for n, value in expected.items()]
    wrong = "; ".join(entry for entry in differences if entry)
    if wrong and case.name in RUNTIME_DIFFERS:
        runtime = run_reference(path, inputs, threads=1)
        if not any(find_difference(found[name], value, case.rtol, case.atol) for name, value in runtime.items()):
            return Verdict(case.name, "as the runtime", wrong)
    return Verdict(case.name, "wrong", wrong) if wrong else Verdict(case.name, "passed")


def find_reason(error: AuditError) -> str:
    """Return why a case was refused, in words that cases of the same kind share."""
    return "; ".join(sorted({_generalise(fault) for fault in error.faults}))


def _generalise(fault: Fault) -> str:
    if fault.where.startswith("/model/inputs"):
        return f"values of type {fault.got}"
    if "outside the supported range" in fault.what:
        return f"opset {fault.got}"
    return re.sub(r"( \(opset \d+\)|^tensor '\w*' )", "", fault.what)
