"""ONNX's own conformance cases: one operator each, with inputs and the outputs that the standard asks for."""

import importlib
import pkgutil
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx.backend.test
import onnx.backend.test.case.node as node_cases
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor

if TYPE_CHECKING:
    from onnx.backend.test.case.test_case import TestCase

SLOW_MODULES = {"averagepool", "lppool", "maxpool"}
"""Their expected outputs take the reference longer than all others together; pools are held against ONNX Runtime instead."""
RANDOM = ("test_bernoulli", "test_training_dropout")
"""What random operators return is left open; their shapes and types are not."""

ROUNDING = {torch.float16: 2**-9, torch.bfloat16: 2**-6}
"""Two units in the last place."""


class UntestableError(Exception):
    """The case holds values that torch cannot hold (strings, numbers of less than a byte)."""


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
            if module.name not in SLOW_MODULES:
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
