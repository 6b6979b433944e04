"""Half precision: a file's 16-bit floats are computed with in float32, its weights stay on the grid that 16 bits are.

A gradient in 16 bits underflows, and a corruption added in 16 bits is rounded away; the runtime on the CPU computes in float32
too. Inputs are rounded to what the file declares, then widened.

PyTorch computes its own files in 16 bits, and the outputs that we are compared with carry that rounding: `Program.spacing`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from worker.engine.models.program import Half, Program, Step, rename_values

HALVES = frozenset({torch.float16, torch.bfloat16})


def widen_halves(program: Program) -> Program:
    """Return the program computing in float32 where the file says float16 or bfloat16; it is unchanged without any."""
    stored = {name: value.dtype for name, value in program.weights.items() if name not in program.grids}
    halves = {name: Half(dtype) for name, dtype in stored.items() if dtype in HALVES}
    narrow: dict[str, torch.dtype | None] = {spec.name: spec.dtype for spec in program.inputs if spec.dtype in HALVES}
    kept = (*program.constants.values(), *program.weights.values())
    found = HALVES.intersection([*(value.dtype for value in kept if isinstance(value, Tensor)), *narrow.values()])
    if not found:
        return program
    # TorchScript does not say what its inputs are: they come in what the file takes, which its runtime checks.
    narrow |= {spec.name: None for spec in program.inputs if spec.dtype is None}
    wide = program.map_values(
        lambda tensor: tensor.float() if tensor.dtype in HALVES else tensor,
        lambda dtype: torch.float32 if dtype in HALVES else dtype,
    )
    names = {name: f"{name}#wide" for name in narrow}
    casts = tuple(
        Step(wide_name, "Widen", Rounding(narrow[name]), (name,), (wide_name,), {"dtype": torch.float32})
        for name, wide_name in names.items()
    )
    steps = casts + rename_values(wide.steps, names)
    spacing = 0.0 if program.format == "onnx" else max(torch.finfo(dtype).eps for dtype in found)
    return replace(wide, inputs=program.inputs, steps=steps, halves=halves, nodes={}, spacing=spacing)


def round_inputs(program: Program, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the inputs in the half precision that the file declares, where it does."""
    declared = {spec.name: spec.dtype for spec in program.inputs if spec.dtype in HALVES}
    return {name: value.to(declared.get(name, value.dtype)) for name, value in inputs.items()}


@dataclass(frozen=True)
class Rounding:
    """Rounds an input to the type that the file declares, if it does; the attribute is the type to compute with."""

    stored: torch.dtype | None

    def __call__(self, x: Any, *, dtype: torch.dtype) -> Any:
        """Return the input as the file sees it, in the type to compute with; what is no half and not declared stays as it is."""
        if self.stored is not None:
            return x.to(self.stored).to(dtype)
        return x.to(dtype) if isinstance(x, Tensor) and x.dtype in HALVES else x
