"""Numbers on a grid: rounded to stored integers, and read back from them."""

import torch
from torch import Tensor

from worker.engine.models.onnx.registry import Family, Node, Operator, UncoveredError
from worker.engine.models.program import Grid

operator = Family("quantisation")


def _read_axis(node: Node) -> dict[str, int]:
    if node.attributes.get("block_size", 0):
        message = "quantises in blocks, which is not supported"
        raise UncoveredError(message)
    return {"axis": node.attributes.get("axis", 1)}


def _read_source(node: Node) -> dict[str, int]:
    if "output_dtype" in node.attributes:
        message = "has an output type of its own, which is not supported"
        raise UncoveredError(message)
    return _read_axis(node)


def _read_target(node: Node) -> dict[str, int | torch.dtype]:
    dtype = node.attributes.get("output_dtype") or torch.uint8
    if dtype.is_floating_point:
        message = "quantises to floats, which is not supported"
        raise UncoveredError(message)
    return {**_read_axis(node), "dtype": dtype}


def lay_out(parameter: Tensor, x: Tensor, axis: int) -> Tensor:
    """Return a scale or zero point broadcastable to `x`: one number for all of it, or one per slice along `axis`."""
    if parameter.numel() == 1 or x.ndim == 0:
        return parameter.reshape([1] * x.ndim)
    return parameter.reshape([-1 if dim == axis % x.ndim else 1 for dim in range(x.ndim)])


def build_grid(codes: Tensor, scale: Tensor, zero_point: Tensor | None, axis: int) -> Grid:
    """Return the grid that a DequantizeLinear reads codes on."""
    zero_point = codes.new_zeros(1) if zero_point is None else zero_point
    return Grid(codes, lay_out(scale, codes, axis), lay_out(zero_point, codes, axis))


def _round(x: Tensor, scale: Tensor, zero_point: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Return the integers, as floats: halves go to the even neighbour, what lies outside the type to its ends."""
    limits = torch.iinfo(dtype)
    offset = torch.zeros_like(scale) if zero_point is None else zero_point.to(scale.dtype)
    return (torch.round(x / scale) + offset).clamp(limits.min, limits.max)


@operator("QuantizeLinear", since=10, settings=(1,), prepare=_read_target)
def quantise(x: Tensor, scale: Tensor, zero_point: Tensor | None = None, *, axis: int, dtype: torch.dtype) -> Tensor:
    """Round to the integers of a grid; one scale for all, or one per slice along an axis."""
    dtype = dtype if zero_point is None else zero_point.dtype
    scale = lay_out(scale, x, axis)
    return _round(x, scale, None if zero_point is None else lay_out(zero_point, x, axis), dtype).to(dtype)


@operator("DequantizeLinear", since=10, settings=(1,), prepare=_read_source)
def dequantise(codes: Tensor, scale: Tensor, zero_point: Tensor | None = None, *, axis: int) -> Tensor:
    """Numbers behind the integers of a grid; a stored tensor read so is a weight, in real units."""
    return build_grid(codes, scale, zero_point, axis).decode(codes)


def round_to_grid(x: Tensor, scale: Tensor, zero_point: Tensor | None = None, *, axis: int, dtype: torch.dtype) -> Tensor:
    """Return `x` rounded to a grid; its gradient is that of the clamp alone (straight through the rounding).

    The value is exactly that of QuantizeLinear and DequantizeLinear one after the other.
    """
    dtype = dtype if zero_point is None else zero_point.dtype
    scale = lay_out(scale, x, axis)
    offset = torch.zeros_like(scale) if zero_point is None else lay_out(zero_point, x, axis).to(scale.dtype)
    value = (_round(x.detach(), scale, offset, dtype) - offset) * scale
    limits = torch.iinfo(dtype)
    smooth = x.clamp((limits.min - offset) * scale, (limits.max - offset) * scale)
    # Exactly zero beside the value, so the value is not rounded again.
    return value + (smooth - smooth.detach())


PAIR = Operator("quantisation", "RoundToGrid", round_to_grid, settings=(1,))
"""What a pair of QuantizeLinear and DequantizeLinear becomes at load; no file names it, so it is not in the table."""
