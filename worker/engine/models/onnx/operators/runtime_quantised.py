"""The quantised operators that ONNX Runtime's optimiser and quantiser write (domain com.microsoft)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from worker.engine.models.onnx.operators.integer import (
    CONV,
    QLINEAR_CONV,
    find_float,
    multiply,
    qlinear_conv,
    read_integer_convolution,
    scale_back,
)
from worker.engine.models.onnx.operators.pooling import max_pool, mean_pool
from worker.engine.models.onnx.operators.quantisation import (
    SAME,
    centre,
    dequantise,
    encode,
    lay_out,
    quantise,
    quantise_dynamically,
)
from worker.engine.models.onnx.operators.windows import Window, read_window
from worker.engine.models.onnx.registry import Codes, Family, Node, Prepare, UncoveredError
from worker.engine.models.program import Likeness

operator = Family("com.microsoft, quantised", "com.microsoft", rounds=True)
MOST_SLOTS = 300
"""Of an operator with any number of inputs, the floats among which are scales."""


def read(codes: Tensor, scale: Tensor, zero_point: Tensor | None, axis: int = -1) -> Tensor:
    """Return the real numbers behind codes."""
    return dequantise(codes, scale, zero_point, axis=axis)


def _read_axis(node: Node) -> dict[str, Any]:
    return {"axis": node.attributes.get("axis", 1), "block": node.attributes.get("block_size", 0)}


def _read_target(node: Node) -> dict[str, Any]:
    return {**_read_axis(node), "limits": None}


operator("DequantizeLinear", settings=(1, 2), codes=(Codes(0, (1,), 2, "axis"),), prepare=_read_axis, like=SAME)(dequantise)
operator("QuantizeLinear", settings=(1, 2), prepare=_read_target, like=SAME)(quantise)


# products


@operator(
    "MatMulIntegerToFloat",
    settings=(2, 3),
    codes=(Codes(0, (2,), 4, -2), Codes(1, (3,), 5, -1)),
    parameters=(6,),
    like=Likeness("matmul", (0, 1, 6)),
)
def matmul_integer_to_float(
    a: Tensor,
    b: Tensor,
    a_scale: Tensor,
    b_scale: Tensor,
    a_zero: Tensor | None = None,
    b_zero: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Matrix product of integers less their zero points, as real numbers, plus a bias."""
    sums = multiply(a, b, a_zero, b_zero)
    y = sums * (lay_out(a_scale, sums, -2) * lay_out(b_scale, sums, -1))
    return y if bias is None else y + bias


@operator(
    "DynamicQuantizeMatMul", settings=(2,), codes=(Codes(1, (2,), 3, -1),), parameters=(4,), like=Likeness("matmul", (0, 1, 4))
)
def dynamic_quantize_matmul(
    a: Tensor, b: Tensor, b_scale: Tensor, b_zero: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """Matrix product after A is rounded to a uint8 grid that spans it, plus a bias."""
    codes, scale, zero_point = quantise_dynamically(a)
    return matmul_integer_to_float(codes, b, scale, b_scale, zero_point, b_zero, bias)


def _read_gemm(node: Node) -> dict[str, Any]:
    alpha, b_axis = node.attributes.get("alpha", 1.0), 0 if node.attributes.get("transB", 0) else 1
    if alpha != 1.0:
        message = "with an alpha other than 1 is not supported"
        raise UncoveredError(message)
    return {"turn_a": bool(node.attributes.get("transA", 0)), "b_axis": b_axis}


@operator(
    "QGemm",
    settings=(1, 4, 7),
    codes=(Codes(3, (4,), 5, "b_axis"), Codes(6, (1, 4), None, -1)),
    prepare=_read_gemm,
    like=Likeness("gemm", (0, 3, 6)),
)
def qgemm(  # noqa: PLR0913, PLR0917 - the runtime's inputs
    a: Tensor,
    a_scale: Tensor,
    a_zero: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_zero: Tensor,
    c: Tensor | None = None,
    y_scale: Tensor | None = None,
    y_zero: Tensor | None = None,
    *,
    turn_a: bool,
    b_axis: int,
) -> Tensor:
    """A B + C of integers, as real numbers, or rounded to a grid where one is given."""
    dtype = find_float(a, b)
    left, right = centre(a, a_zero, dtype), centre(b, b_zero, dtype, b_axis)
    sums = torch.mm(left.t() if turn_a else left, right if b_axis else right.t())
    sums = sums if c is None else sums + c.to(sums.dtype)
    factor = a_scale * lay_out(b_scale, sums, -1)
    return sums * factor if y_scale is None else scale_back(sums, factor / y_scale, y_zero)


def _read_layout(node: Node) -> dict[str, Any]:
    return {**read_integer_convolution(node), "channels_last": bool(node.attributes.get("channels_last", 0))}


@operator("QLinearConv", settings=(1, 4, 6), codes=QLINEAR_CONV, prepare=_read_layout, like=CONV)
def qlinear_conv_any_layout(x: Tensor, *others: Tensor, arguments: dict[str, Any], channels_last: bool) -> Tensor:
    """Convolution between grids, channels first or last."""
    if not channels_last:
        return qlinear_conv(x, *others, arguments=arguments)
    return qlinear_conv(x.movedim(-1, 1), *others, arguments=arguments).movedim(1, -1)


# element by element


Read = tuple[Tensor, Tensor, Tensor | None]
"""Codes, their scale and their zero point."""


def _enter_pair(name: str, what: str, combine: Callable[[Read, Read], Tensor]) -> None:
    """Enter an operator that computes real numbers from two inputs, each on its grid, and rounds them to a third."""

    def apply(
        a: Tensor,
        a_scale: Tensor,
        a_zero: Tensor | None,
        b: Tensor,
        b_scale: Tensor,
        b_zero: Tensor | None,
        y_scale: Tensor,
        y_zero: Tensor | None = None,
    ) -> Tensor:
        return encode(combine((a, a_scale, a_zero), (b, b_scale, b_zero)), y_scale, y_zero)

    apply.__doc__ = f"{what} between grids."
    like = Likeness(name.removeprefix("QLinear").lower(), (0, 3))
    operator(name, settings=(1, 4, 6), codes=(Codes(0, (1,), 2), Codes(3, (4,), 5)), like=like)(apply)


def _multiply(a: Read, b: Read) -> Tensor:
    dtype = find_float(a[0], b[0])
    return centre(a[0], a[2], dtype) * centre(b[0], b[2], dtype) * (a[1] * b[1])  # codes first: their product is exact


_enter_pair("QLinearAdd", "Sum", lambda a, b: read(*a) + read(*b))
_enter_pair("QLinearMul", "Product", _multiply)


def _enter_function(name: str, what: str, function: Callable[..., Tensor], prepare: Prepare | None = None) -> None:
    """Enter an operator that computes a function of real numbers between two grids."""

    def apply(
        x: Tensor, x_scale: Tensor, x_zero: Tensor | None, y_scale: Tensor, y_zero: Tensor | None = None, **attributes: Any
    ) -> Tensor:
        return encode(function(read(x, x_scale, x_zero), **attributes), y_scale, y_zero)

    apply.__doc__ = f"{what} between grids."
    like = Likeness(name.removeprefix("QLinear").lower(), (0,))
    operator(name, settings=(1, 3), prepare=prepare or (lambda _: {}), like=like)(apply)


def _read_mean_pool(node: Node) -> dict[str, Any]:
    last = bool(node.attributes.get("channels_last", 0))
    return {"window": read_window(node), "padded": bool(node.attributes.get("count_include_pad", 0)), "channels_last": last}


def _pool(x: Tensor, *, window: Window, padded: bool, channels_last: bool) -> Tensor:
    if channels_last:
        return mean_pool(x.movedim(-1, 1), window=window, padded=padded).movedim(1, -1)
    return mean_pool(x, window=window, padded=padded)


def _pool_all(x: Tensor, *, channels_last: bool) -> Tensor:
    return x.mean(tuple(range(1, x.ndim - 1)) if channels_last else tuple(range(2, x.ndim)), keepdim=True)


def _soften(x: Tensor, *, axis: int, joint: bool) -> Tensor:
    """Softmax along an axis; before opset 13 over all axes from it on together."""
    return x.flatten(axis % x.ndim).softmax(-1).reshape(x.shape) if joint else x.softmax(axis)


def _read_softmax(node: Node) -> dict[str, Any]:
    joint = node.attributes.get("opset", 13) < 13
    return {"axis": node.attributes.get("axis", 1 if joint else -1), "joint": joint}


_enter_function("QLinearSigmoid", "Sigmoid", torch.sigmoid)
_enter_function(
    "QLinearLeakyRelu",
    "Leaky ReLU",
    functional.leaky_relu,
    prepare=lambda node: {"negative_slope": node.attributes.get("alpha", 0.01)},
)
_enter_function("QLinearAveragePool", "Mean of each window", _pool, prepare=_read_mean_pool)
_enter_function(
    "QLinearGlobalAveragePool",
    "Mean over all positions",
    _pool_all,
    prepare=lambda node: {"channels_last": bool(node.attributes.get("channels_last", 0))},
)


@operator("QLinearSoftmax", settings=(1, 3), prepare=_read_softmax, like=Likeness("softmax", (0,)))
def qlinear_softmax(
    x: Tensor,
    x_scale: Tensor,
    x_zero: Tensor | None,
    y_scale: Tensor,
    y_zero: Tensor | None = None,
    *,
    axis: int,
    joint: bool,
) -> Tensor:
    """Softmax between grids; as in the runtime, the steps in 1 are cut to a whole number."""
    return encode(_soften(read(x, x_scale, x_zero), axis=axis, joint=joint), 1 / (1 / y_scale).floor().clamp(min=1), y_zero)


@operator(
    "QLinearConcat",
    prepare=lambda node: {"axis": node.attributes["axis"]},
    settings=tuple(range(MOST_SLOTS)),
    like=Likeness("concat", tuple(range(2, MOST_SLOTS, 3))),
)
def qlinear_concat(y_scale: Tensor, y_zero: Tensor | None, *parts: Tensor, axis: int) -> Tensor:
    """Parts of several grids one after another on one."""
    reals = [read(parts[n], parts[n + 1], parts[n + 2]) for n in range(0, len(parts), 3)]
    return encode(torch.cat(reals, axis), y_scale, y_zero)


@operator("QLinearWhere", settings=(2, 5, 7), codes=(Codes(1, (2,), 3), Codes(4, (5,), 6)), like=Likeness("where", (0, 1, 4)))
def qlinear_where(  # noqa: PLR0913, PLR0917 - the runtime's inputs
    condition: Tensor,
    a: Tensor,
    a_scale: Tensor,
    a_zero: Tensor | None,
    b: Tensor,
    b_scale: Tensor,
    b_zero: Tensor | None,
    y_scale: Tensor,
    y_zero: Tensor | None = None,
) -> Tensor:
    """One of two values by a condition, between grids."""
    return encode(torch.where(condition, read(a, a_scale, a_zero), read(b, b_scale, b_zero)), y_scale, y_zero)


def _read_max_pool(node: Node) -> dict[str, Any]:
    return {"window": read_window(node)}


@operator("NhwcMaxPool", prepare=_read_max_pool, like=Likeness("maxpool", (0,)))
def nhwc_max_pool(x: Tensor, *, window: Window) -> Tensor:
    """Largest code of each window, channels last."""
    y = max_pool(x.movedim(-1, 1).contiguous(), window=window, indexed=False, columns_first=False)
    return y[0] if isinstance(y, tuple) else y.movedim(1, -1)
