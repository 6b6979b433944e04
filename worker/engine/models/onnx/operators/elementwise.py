"""Element by element: arithmetic, comparison, logic, bits, rounding, type conversion."""

import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from worker.engine.models.onnx.operators.placement import align, aligned
from worker.engine.models.onnx.operators.small_floats import SMALL, convert_to_small
from worker.engine.models.onnx.operators.unsigned import compute_unsigned
from worker.engine.models.onnx.registry import Family, Node

operator = Family("elementwise")

operator("Abs")(torch.abs)
operator("Acos")(torch.acos)
operator("Acosh", since=9)(torch.acosh)
operator("Asin")(torch.asin)
operator("Asinh", since=9)(torch.asinh)
operator("Atan")(torch.atan)
operator("Atanh", since=9)(torch.atanh)
operator("Ceil")(torch.ceil)
operator("Cos")(torch.cos)
operator("Cosh", since=9)(torch.cosh)
operator("Erf", since=9)(torch.erf)
operator("Exp")(torch.exp)
operator("Floor")(torch.floor)
operator("IsNaN", since=9)(torch.isnan)
operator("Log")(torch.log)
operator("Neg")(torch.neg)
operator("Not")(torch.logical_not)
operator("Reciprocal")(torch.reciprocal)
operator("Round", since=11)(torch.round)
operator("Sign", since=9)(torch.sign)
operator("Sin")(torch.sin)
operator("Sinh", since=9)(torch.sinh)
operator("Sqrt")(torch.sqrt)
operator("Tan")(torch.tan)

operator("Add", since=7)(aligned(torch.add, np.add))
operator("Sub", since=7)(aligned(torch.sub, np.subtract))
operator("Mul", since=7)(aligned(torch.mul, np.multiply))
operator("And", since=7)(aligned(torch.logical_and))
operator("Or", since=7)(aligned(torch.logical_or))
operator("Xor", since=7)(aligned(torch.logical_xor))
operator("Equal", since=7)(aligned(torch.eq, np.equal))
operator("Greater", since=7)(aligned(torch.gt, np.greater))
operator("GreaterOrEqual", since=12)(aligned(torch.ge, np.greater_equal))
operator("Less", since=7)(aligned(torch.lt, np.less))
operator("LessOrEqual", since=12)(aligned(torch.le, np.less_equal))
operator("BitwiseAnd", since=18)(aligned(torch.bitwise_and, np.bitwise_and))
operator("BitwiseOr", since=18)(aligned(torch.bitwise_or, np.bitwise_or))
operator("BitwiseXor", since=18)(aligned(torch.bitwise_xor, np.bitwise_xor))


@operator("Identity", alias=True, relays=True)
def identity(x: Tensor) -> Tensor:
    """Return the input itself."""
    return x


@operator("BitwiseNot", since=18)
def bitwise_not(x: Tensor) -> Tensor:
    """Flip every bit."""
    try:
        return torch.bitwise_not(x)
    except NotImplementedError:
        return compute_unsigned(np.bitwise_not, x)


def _divide(a: Tensor, b: Tensor) -> Tensor:
    """Divide; integers are cut towards zero."""
    return torch.div(a, b) if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


operator("Div", since=7)(aligned(_divide, np.floor_divide))


@operator("Pow", since=7)
@aligned
def power(base: Tensor, exponent: Tensor) -> Tensor:
    """Raise to a power; the result has the base's type."""
    return torch.pow(base, exponent).to(base.dtype)


_REMAINDERS = aligned(torch.remainder, np.remainder), aligned(torch.fmod, np.fmod)


def _choose_remainder(node: Node) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    return {"remainder": _REMAINDERS[node.attributes.get("fmod", 0)]}


@operator("Mod", since=10, prepare=_choose_remainder)
def modulo(a: Tensor, b: Tensor, *, remainder: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Remainder with the divisor's sign, or with the dividend's when `fmod` is set."""
    return remainder(a, b)


@operator("Max", since=6)
def maximum(*values: Tensor) -> Tensor:
    """Largest of several tensors."""
    return functools.reduce(aligned(torch.maximum, np.maximum), values)


@operator("Min", since=6)
def minimum(*values: Tensor) -> Tensor:
    """Smallest of several tensors."""
    return functools.reduce(aligned(torch.minimum, np.minimum), values)


@operator("Sum", since=6)
def total(*values: Tensor) -> Tensor:
    """Sum of several tensors."""
    return functools.reduce(aligned(torch.add, np.add), values)


@operator("Mean", since=6)
def mean(*values: Tensor) -> Tensor:
    """Mean of several tensors."""
    return functools.reduce(aligned(torch.add), values) / len(values)


@operator("Where", since=9)
def where(condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Choose from `a` where the condition holds, else from `b`."""
    if condition.is_cpu is a.is_cpu is b.is_cpu:
        return torch.where(condition, a, b)
    condition, a, b = align(condition, a, b)
    return torch.where(condition, a, b)


@operator("Clip", since=6, until=11)
def clip_fixed(x: Tensor, *, min: float | None = None, max: float | None = None) -> Tensor:
    """Bounds as attributes."""
    return x if min is None and max is None else torch.clamp(x, min, max)


@operator("Clip", since=11, settings=(1, 2))
def clip(x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """Bounds as scalar inputs; the upper one wins where they cross."""
    return x if low is None and high is None else torch.clamp(x, low, high)


@operator("IsInf", since=10)
def is_infinite(x: Tensor, *, detect_negative: int = 1, detect_positive: int = 1) -> Tensor:
    """Which elements are infinite, of the signs asked for."""
    if detect_negative and detect_positive:
        return torch.isinf(x)
    return torch.isneginf(x) if detect_negative else torch.isposinf(x) & bool(detect_positive)


_SHIFTS = {
    "LEFT": aligned(torch.bitwise_left_shift, np.left_shift),
    "RIGHT": aligned(torch.bitwise_right_shift, np.right_shift),
}


def _choose_shift(node: Node) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    return {"shift": _SHIFTS[node.attributes["direction"]]}


@operator("BitShift", since=11, prepare=_choose_shift)
def bit_shift(a: Tensor, b: Tensor, *, shift: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Shift bits left or right."""
    return shift(a, b)


def _read_saturation(node: Node) -> dict[str, bool]:
    return {"saturated": bool(node.attributes.get("saturate", 1))}


def _read_target(node: Node) -> dict[str, torch.dtype | bool]:
    return {"dtype": node.attributes["to"], **_read_saturation(node)}


@operator("Cast", since=6, prepare=_read_target, relays=True)
def cast(x: Tensor, *, dtype: torch.dtype, saturated: bool = True) -> Tensor:
    """Convert to a data type; floats are cut towards zero on their way to integers, and saturate in eight-bit floats."""
    return convert_to_small(x, dtype, saturated=saturated) if dtype in SMALL else x.to(dtype)


@operator("CastLike", since=15, prepare=_read_saturation, relays=True)
def cast_like(x: Tensor, target: Tensor, *, saturated: bool = True) -> Tensor:
    """Convert to the data type of another tensor."""
    return cast(x, dtype=target.dtype, saturated=saturated)


def _read_width(node: Node) -> dict[str, torch.dtype]:
    return {"dtype": node.attributes["to"]}


@operator("BitCast", since=26, prepare=_read_width)
def bit_cast(x: Tensor, *, dtype: torch.dtype) -> Tensor:
    """Read the same bits as another type of the same width."""
    return x.view(dtype)
