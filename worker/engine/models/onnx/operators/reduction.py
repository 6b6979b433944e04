"""Reductions along axes, arg-extrema, running sums, the k largest."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from worker.engine.models.onnx.operators.placement import read_ints
from worker.engine.models.onnx.registry import Family, Node

operator = Family("reduction")

Compute = Callable[..., Tensor]
"""compute(x, axes, keep=...)"""


def _reduce_sum(x: Tensor, axes: list[int], *, keep: bool) -> Tensor:
    return torch.sum(x, axes, keepdim=keep, dtype=x.dtype)


def _reduce_mean(x: Tensor, axes: list[int], *, keep: bool) -> Tensor:
    if x.is_floating_point():
        return torch.mean(x, axes, keepdim=keep)
    count = math.prod(x.shape[axis] for axis in axes)
    return torch.div(_reduce_sum(x, axes, keep=keep), count, rounding_mode="trunc")


def _reduce_product(x: Tensor, axes: list[int], *, keep: bool) -> Tensor:
    for axis in sorted((axis % x.ndim for axis in axes), reverse=True):
        x = torch.prod(x, axis, keepdim=keep, dtype=x.dtype)
    return x


def _reduce_max(x: Tensor, axes: list[int], *, keep: bool) -> Tensor:
    return torch.amax(_never_empty(x, axes, largest=False), axes, keepdim=keep)


def _reduce_min(x: Tensor, axes: list[int], *, keep: bool) -> Tensor:
    return torch.amin(_never_empty(x, axes, largest=True), axes, keepdim=keep)


def _never_empty(x: Tensor, axes: list[int], *, largest: bool) -> Tensor:
    """Give reduced axes without elements one element: the neutral one."""
    if x.numel():
        return x
    shape = [1 if size == 0 and axis in {a % x.ndim for a in axes} else size for axis, size in enumerate(x.shape)]
    if x.dtype == torch.bool:
        neutral: float | bool = largest
    elif x.is_floating_point():
        neutral = math.inf if largest else -math.inf
    else:
        neutral = torch.iinfo(x.dtype).max if largest else torch.iinfo(x.dtype).min
    return x.new_full(shape, neutral)


def _reduce_norm1(x: Tensor, axes: list[int], *, keep: bool) -> Tensor:
    return _reduce_sum(x.abs(), axes, keep=keep)


def _reduce_norm2(x: Tensor, axes: list[int], *, keep: bool) -> Tensor:
    floats = x if x.is_floating_point() else x.double()
    return torch.linalg.vector_norm(floats, 2, axes, keepdim=keep).to(x.dtype)


def _reduce_squares(x: Tensor, axes: list[int], *, keep: bool) -> Tensor:
    return _reduce_sum(x * x, axes, keep=keep)


def _reduce_log_sum(x: Tensor, axes: list[int], *, keep: bool) -> Tensor:
    return torch.log(torch.sum(x, axes, keepdim=keep)).to(x.dtype)


def _reduce_log_sum_exp(x: Tensor, axes: list[int], *, keep: bool) -> Tensor:
    return torch.logsumexp(x, axes, keepdim=keep).to(x.dtype)


def _enter(name: str, compute: Compute, axes_as_input_since: int, what: str) -> None:
    """Enter both forms of a reduction: axes as an attribute, later as an input."""

    def reduce_fixed(x: Tensor, *, axes: Sequence[int] | None = None, keepdims: int = 1) -> Tensor:
        return compute(x, list(range(x.ndim) if axes is None else axes), keep=bool(keepdims))

    def reduce(x: Tensor, axes: Tensor | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
        chosen = [] if axes is None else read_ints(axes)
        if not chosen and noop_with_empty_axes:
            return compute(x.unsqueeze(0), [0], keep=False)
        return compute(x, chosen or list(range(x.ndim)), keep=bool(keepdims))

    reduce.__doc__ = f"{what} along axes."
    reduce_fixed.__doc__ = f"{what} along axes, given as an attribute."
    operator(name, since=1, until=axes_as_input_since)(reduce_fixed)
    operator(name, since=axes_as_input_since, sizes=(1,))(reduce)


_enter("ReduceSum", _reduce_sum, 13, "Sum")
_enter("ReduceMean", _reduce_mean, 18, "Mean")
_enter("ReduceProd", _reduce_product, 18, "Product")
_enter("ReduceMax", _reduce_max, 18, "Largest element")
_enter("ReduceMin", _reduce_min, 18, "Smallest element")
_enter("ReduceL1", _reduce_norm1, 18, "Sum of magnitudes")
_enter("ReduceL2", _reduce_norm2, 18, "Euclidean norm")
_enter("ReduceSumSquare", _reduce_squares, 18, "Sum of squares")
_enter("ReduceLogSum", _reduce_log_sum, 18, "Logarithm of the sum")
_enter("ReduceLogSumExp", _reduce_log_sum_exp, 18, "Logarithm of the sum of exponentials")


@operator("ArgMax")
def argmax(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    """Index of the largest element along an axis."""
    if not select_last_index:
        return torch.argmax(x, axis, keepdim=bool(keepdims))
    return x.shape[axis] - 1 - torch.argmax(x.flip(axis), axis, keepdim=bool(keepdims))


@operator("ArgMin")
def argmin(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    """Index of the smallest element along an axis."""
    if not select_last_index:
        return torch.argmin(x, axis, keepdim=bool(keepdims))
    return x.shape[axis] - 1 - torch.argmin(x.flip(axis), axis, keepdim=bool(keepdims))


def _accumulate(
    x: Tensor, axis: int, compute: Callable[[Tensor, int], Tensor], neutral: int, exclusive: int, reverse: int
) -> Tensor:
    if reverse:
        x = x.flip(axis)
    if exclusive:
        first = torch.full_like(x.narrow(axis, 0, 1), neutral)
        x = torch.cat((first, x.narrow(axis, 0, x.shape[axis] - 1)), axis)
    result = compute(x, axis).to(x.dtype)
    return result.flip(axis) if reverse else result


@operator("CumSum", since=11)
def cumulative_sum(x: Tensor, axis: Tensor, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    """Running sum along an axis."""
    return _accumulate(x, int(axis), torch.cumsum, 0, exclusive, reverse)


@operator("CumProd", since=26)
def cumulative_product(x: Tensor, axis: Tensor, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    """Running product along an axis."""
    return _accumulate(x, int(axis), torch.cumprod, 1, exclusive, reverse)


def _read_top(node: Node) -> dict[str, int]:
    return {name: node.attributes[name] for name in ("axis", "largest") if name in node.attributes}


@operator("TopK", since=11, sizes=(1,), prepare=_read_top, many=True)
def top_k(x: Tensor, k: Tensor, *, axis: int = -1, largest: int = 1) -> tuple[Tensor, Tensor]:
    """Take the k largest or smallest elements along an axis in order; equal ones by rising index."""
    values, indices = torch.sort(x, dim=axis, descending=bool(largest), stable=True)
    count = int(k)
    return values.narrow(axis, 0, count), indices.narrow(axis, 0, count)


@operator("TopK", since=10, until=11, sizes=(1,), many=True)
def top_k_largest(x: Tensor, k: Tensor, *, axis: int = -1) -> tuple[Tensor, Tensor]:
    """Take the k largest elements along an axis."""
    return top_k(x, k, axis=axis)


@operator("TopK", since=1, until=10, many=True)
def top_k_fixed(x: Tensor, *, k: int, axis: int = -1) -> tuple[Tensor, Tensor]:
    """Take the k largest elements along an axis, k as an attribute."""
    return top_k(x, torch.tensor(k), axis=axis)
