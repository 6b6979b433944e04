"""Half precision: a file's 16-bit floats are computed with in float32, its weights stay on the grid that 16 bits are.

A gradient in 16 bits underflows, and a corruption added in 16 bits is rounded away; the runtime on the CPU computes in float32
too. Inputs are rounded to what the file declares, then widened.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from worker.engine.models.program import Half, Program, Step, rename_values

HALVES = frozenset({torch.float16, torch.bfloat16})


def widen_halves(program: Program) -> Program:
    """Return the program computing in float32 where the file says float16 or bfloat16; it is unchanged without any."""
    stored = {name: value.dtype for name, value in program.weights.items() if name not in program.grids}
    halves = {name: Half(dtype) for name, dtype in stored.items() if dtype in HALVES}
    narrow = {spec.name: spec.dtype for spec in program.inputs if spec.dtype in HALVES}
    kept = (*program.constants.values(), *program.weights.values())
    others = any(isinstance(value, Tensor) and value.dtype in HALVES for value in kept)
    if not halves and not narrow and not others:
        return program
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
    return replace(wide, inputs=program.inputs, steps=steps, halves=halves, nodes={})


def round_inputs(program: Program, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the inputs in the half precision that the file declares, where it does."""
    declared = {spec.name: spec.dtype for spec in program.inputs if spec.dtype in HALVES}
    return {name: value.to(declared.get(name, value.dtype)) for name, value in inputs.items()}


@dataclass(frozen=True)
class Rounding:
    """Rounds an input to the type that the file declares; the attribute is the type to compute with."""

    stored: torch.dtype | None

    def __call__(self, x: Tensor, *, dtype: torch.dtype) -> Tensor:
        """Return the input as the file sees it, in the type to compute with."""
        return x.to(self.stored).to(dtype)
