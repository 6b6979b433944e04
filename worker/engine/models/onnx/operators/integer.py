"""Products of quantised integers: codes less their zero points, accumulated, then scaled.

Codes are floats that hold integers (see `quantisation`). Sums below 2^24 are exact in float32, hence those of the runtime.
"""

from typing import Any

import torch
from torch import Tensor

from worker.engine.models.onnx.operators.convolution import conv, read_convolution
from worker.engine.models.onnx.operators.quantisation import centre, find_limits, lay_out
from worker.engine.models.onnx.registry import Codes, Family, Node
from worker.engine.models.program import Likeness
from worker.engine.models.rounding import Limits, round_codes

operator = Family("quantised products")

MATMUL = Likeness("matmul", (0, 1))


def find_float(*values: Tensor | None) -> torch.dtype:
    """Return the widest float among the values, at least float32."""
    found = torch.float32
    for value in values:
        if value is not None and value.is_floating_point():
            found = torch.promote_types(found, value.dtype)
    return found


def multiply(a: Tensor, b: Tensor, a_zero: Tensor | None, b_zero: Tensor | None) -> Tensor:
    """Return (A - a_zero)(B - b_zero); zero points may be lists along A's rows and B's columns."""
    dtype = find_float(a, b)
    return torch.matmul(centre(a, a_zero, dtype, -2), centre(b, b_zero, dtype, -1))


def convolve(x: Tensor, w: Tensor, x_zero: Tensor | None, w_zero: Tensor | None, arguments: dict[str, Any]) -> Tensor:
    """Return the convolution of x - x_zero, which pads with zero, by w - w_zero."""
    dtype = find_float(x, w)
    return conv(centre(x, x_zero, dtype), centre(w, w_zero, dtype, 0), **arguments)


def scale_back(sums: Tensor, factor: Tensor, zero_point: Tensor | None) -> Tensor:
    """Return accumulated integers as codes of another grid: sums x factor in steps of it."""
    limits: Limits = (0, 255) if zero_point is None else find_limits(zero_point.dtype)
    offset = None if zero_point is None else zero_point.to(sums.device, sums.dtype)
    return round_codes(sums * factor, offset, limits)


@operator("MatMulInteger", since=10, codes=(Codes(0, (), 2, -2), Codes(1, (), 3, -1)), rounds=True, like=MATMUL)
def matmul_integer(a: Tensor, b: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None) -> Tensor:
    """Matrix product of integers less their zero points."""
    return multiply(a, b, a_zero, b_zero)


def read_integer_convolution(node: Node) -> dict[str, Any]:
    """Return the convolution's arguments under one name."""
    return {"arguments": read_convolution(node)}


@operator(
    "ConvInteger",
    since=10,
    codes=(Codes(1, (), 3, 0),),
    prepare=read_integer_convolution,
    rounds=True,
    like=Likeness("conv", (0, 1)),
)
def conv_integer(
    x: Tensor, w: Tensor, x_zero: Tensor | None = None, w_zero: Tensor | None = None, *, arguments: dict[str, Any]
) -> Tensor:
    """Convolution of integers less their zero points."""
    return convolve(x, w, x_zero, w_zero, arguments)


CONV = Likeness("conv", (0, 3, 8))
QLINEAR_CONV = (Codes(3, (4,), 5, 0), Codes(8, (1, 4), None, 0))


@operator(
    "QLinearConv", since=10, settings=(1, 4, 6), codes=QLINEAR_CONV, prepare=read_integer_convolution, rounds=True, like=CONV
)
def qlinear_conv(  # noqa: PLR0913, PLR0917 - the standard's inputs
    x: Tensor,
    x_scale: Tensor,
    x_zero: Tensor,
    w: Tensor,
    w_scale: Tensor,
    w_zero: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
    bias: Tensor | None = None,
    *,
    arguments: dict[str, Any],
) -> Tensor:
    """Convolution between grids; the bias lies on the grid of both scales' product."""
    sums = convolve(x, w, x_zero, w_zero, arguments)
    if bias is not None:
        sums = sums + lay_out(bias, sums, 1).to(sums.dtype)
    return scale_back(sums, lay_out(x_scale * w_scale / y_scale, sums, 1), y_zero)


@operator(
    "QLinearMatMul",
    since=10,
    settings=(1, 4, 6),
    codes=(Codes(0, (1,), 2, -2), Codes(3, (4,), 5, -1)),
    rounds=True,
    like=Likeness("matmul", (0, 3)),
)
def qlinear_matmul(
    a: Tensor,
    a_scale: Tensor,
    a_zero: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_zero: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
) -> Tensor:
    """Matrix product between grids."""
    sums = multiply(a, b, a_zero, b_zero)
    factor = lay_out(a_scale, sums, -2) * lay_out(b_scale, sums, -1) / lay_out(y_scale, sums, -2)
    return scale_back(sums, factor, lay_out(y_zero, sums, -2))
