"""Numbers on a grid: rounded to stored integers, and read back from them.

Rounded values are floats here that hold integers: a gradient then passes through a model whose activations are integers in
the runtime (rounding.py).
"""

import torch
from torch import Tensor

from worker.engine.models.onnx.registry import Codes, Family, Node, Operator, UncoveredError
from worker.engine.models.onnx.tensors import NarrowType
from worker.engine.models.program import Grid, Likeness
from worker.engine.models.rounding import Limits, round_codes, round_plainly

operator = Family("quantisation")

SAME = Likeness("identity", (0,))

Axes = int | tuple[int, ...]
SNAP = 2.0**-22
"""Relative; what two roundings in float32 can do to a code: read back, it is the integer again."""


def find_limits(dtype: torch.dtype | NarrowType) -> Limits:
    """Return the ends of an integer type."""
    return dtype.limits if isinstance(dtype, NarrowType) else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)


def _read_axis(node: Node) -> dict[str, int]:
    return {"axis": node.attributes.get("axis", 1), "block": node.attributes.get("block_size", 0)}


def _read_target(node: Node) -> dict[str, int | Limits | None]:
    dtype = node.attributes.get("output_dtype")
    if isinstance(dtype, torch.dtype) and dtype.is_floating_point:
        message = "quantises to floats, which is not supported"
        raise UncoveredError(message)
    return {**_read_axis(node), "limits": None if dtype is None else find_limits(dtype)}


def lay_out(parameter: Tensor, x: Tensor, axis: Axes, block: int = 0) -> Tensor:
    """Return a scale or zero point broadcastable to `x`: one number for all of it, one per slice or block along `axis`.

    Several axes are those of `x` that the parameter's own axes run along.
    """
    parameter = parameter.to(x.device)  # a few integers stay on the CPU
    if isinstance(axis, tuple):
        sizes = dict(zip(axis, parameter.shape, strict=False))
        return parameter.reshape([sizes.get(dim, 1) for dim in range(x.ndim)])
    if block:
        return parameter.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
    if parameter.numel() == 1 or x.ndim == 0:
        return parameter.reshape([1] * x.ndim)
    if parameter.ndim > 1:
        return parameter
    return parameter.reshape([-1 if dim == axis % x.ndim else 1 for dim in range(x.ndim)])


def build_grid(codes: Tensor, scale: Tensor, zero_point: Tensor | None, axis: Axes, block: int = 0, narrow: int = 0) -> Grid:
    """Return the grid that a DequantizeLinear reads codes on."""
    zero_point = codes.new_zeros(1) if zero_point is None else zero_point
    if block and zero_point.numel() > 1:
        zero_point = lay_out(zero_point, codes, axis, block)
    elif not block:
        zero_point = lay_out(zero_point, codes, axis)
    return Grid(codes, lay_out(scale, codes, axis, block), zero_point, narrow)


def centre(codes: Tensor, zero_point: Tensor | None, dtype: torch.dtype, axis: int = -1) -> Tensor:
    """Return codes minus their zero point as floats; integers are subtracted as integers, which is exact."""
    if zero_point is None:
        return codes.to(dtype)
    zero_point = lay_out(zero_point, codes, axis)
    if codes.is_floating_point() or zero_point.is_floating_point():
        return codes.to(dtype) - zero_point.to(dtype)
    return (codes.long() - zero_point.long()).to(dtype)


def encode(x: Tensor, scale: Tensor, zero_point: Tensor | None, limits: Limits | None = None) -> Tensor:
    """Return the codes of real numbers on a grid that is laid out for them; the type is the zero point's, else uint8."""
    computed = zero_point is None or zero_point.dtype in {torch.float32, torch.float64}  # a zero point that is a code itself
    limits = limits or find_limits(torch.uint8 if zero_point is None or computed else zero_point.dtype)
    return round_codes(x / scale, None if zero_point is None else zero_point.to(x.dtype), limits)


@operator("QuantizeLinear", since=10, settings=(1, 2), prepare=_read_target, rounds=True, like=SAME)
def quantise(
    x: Tensor, scale: Tensor, zero_point: Tensor | None = None, *, axis: int, block: int, limits: Limits | None
) -> Tensor:
    """Round to the integers of a grid; one scale for all, or one per slice or block along an axis."""
    zero_point = None if zero_point is None else lay_out(zero_point, x, axis, block)
    return encode(x, lay_out(scale, x, axis, block), zero_point, limits)


def _read_source(node: Node) -> dict[str, int | torch.dtype | None]:
    return {**_read_axis(node), "dtype": node.attributes.get("output_dtype")}


@operator(
    "DequantizeLinear",
    since=10,
    settings=(1, 2),
    prepare=_read_source,
    codes=(Codes(0, (1,), 2, "axis"),),
    rounds=True,
    widens=True,
    like=SAME,
)
def dequantise(
    codes: Tensor, scale: Tensor, zero_point: Tensor | None = None, *, axis: int, block: int = 0, dtype: torch.dtype | None = None
) -> Tensor:
    """Numbers behind the integers of a grid; a stored tensor read so is a weight, in real units."""
    if block and zero_point is not None:
        zero_point = lay_out(zero_point, codes, axis, block)
    value = centre(codes, zero_point, scale.dtype, axis) * lay_out(scale, codes, axis, block)
    return value if dtype is None else value.to(dtype)


@operator("DynamicQuantizeLinear", since=11, rounds=True, like=SAME)
def quantise_dynamically(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Round to uint8 on a grid that spans the numbers and zero; the grid itself has no gradient."""
    known = x.detach()
    low, high = known.min().clamp(max=0), known.max().clamp(min=0)
    scale = (high - low) / 255
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero_point = (-low / scale).round().clamp(0, 255)
    steps = x / scale
    # The grid reaches the largest number: what the clamp takes off there is rounding.
    return round_plainly(steps, zero_point, (0, 255)) + (steps - steps.detach()), scale, zero_point


def read_weight(real: Tensor, step: Tensor, zero_point: Tensor) -> Tensor:
    """Return a weight in real units as the codes that an operator on integers reads; off the grid they are no integers.

    code = w / step + zero_point. What is an integer up to the rounding of float32 is that integer.
    """
    steps = real / step.to(real.device)
    exact = steps.detach()
    nearest = exact.round()
    steps = steps + torch.where((exact - nearest).abs() <= SNAP * nearest.abs(), nearest - exact, 0)
    return steps + zero_point.to(steps.device, steps.dtype)


READ_WEIGHT = Operator("quantisation", "ReadWeight", read_weight, settings=(1, 2), relays=True, rounds=True, like=SAME)
"""What stands before an operator on integers at load; no file names it, so it is not in the table."""
