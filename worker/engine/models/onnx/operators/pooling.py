"""Pools: the largest, mean or p-norm of each window, or of all positions."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from worker.engine.models.onnx.operators.convolution import CONVOLUTIONS
from worker.engine.models.onnx.operators.placement import read_ints
from worker.engine.models.onnx.operators.windows import Window, pad_axes, read_window
from worker.engine.models.onnx.registry import Family, Node, UncoveredError

operator = Family("pooling")

MAX_POOLS: dict[int, Callable[..., Any]] = {3: functional.max_pool1d, 4: functional.max_pool2d, 5: functional.max_pool3d}
MEAN_POOLS: dict[int, Callable[..., Tensor]] = {3: functional.avg_pool1d, 4: functional.avg_pool2d, 5: functional.avg_pool3d}


def _find_kernel(window: Window) -> tuple[int, ...]:
    return window.kernel or ()


def read_max_pool(node: Node) -> dict[str, Any]:
    """Return the arguments of `max_pool`."""
    window = read_window(node)
    indexed = node.has_output(1)
    if indexed and not window.is_symmetric:
        message = "with uneven padding and indices is not supported"
        raise UncoveredError(message)
    columns_first = bool(node.attributes.get("storage_order", 0))
    return {"window": window, "indexed": indexed, "columns_first": columns_first}


@operator("MaxPool", since=1, prepare=read_max_pool)
def max_pool(x: Tensor, *, window: Window, indexed: bool, columns_first: bool) -> Tensor | tuple[Tensor, Tensor]:
    """Largest element of each window, and where it stands in the whole input."""
    kernel = _find_kernel(window)
    strides, dilations, begin, end = window.spread(len(kernel))
    fits = window.is_symmetric and all(2 * pad <= k for pad, k in zip(begin, kernel, strict=True))
    if fits:
        found = MAX_POOLS[x.ndim](x, kernel, strides, begin, dilations, window.ceil, return_indices=indexed)
        return (found[0], _number_whole(found[1], x, columns_first=columns_first)) if indexed else found
    sizes = window.find_sizes(x.shape[2:], kernel)
    begin, end = window.find_pads(x.shape[2:], kernel)
    lowest = -float("inf") if x.is_floating_point() else torch.iinfo(x.dtype).min
    padded = pad_axes(x, begin, _reach(x, begin, end, sizes, kernel, strides, dilations), lowest)
    result: Tensor = MAX_POOLS[x.ndim](padded, kernel, strides, 0, dilations)
    return result


def _reach(x: Tensor, begin: Sequence[int], end: Sequence[int], sizes: Sequence[int], *rest: Sequence[int]) -> list[int]:
    """Return the pads after each axis that let exactly `sizes` windows fit."""
    needed = [(count - 1) * s + (k - 1) * d + 1 for count, k, s, d in zip(sizes, *rest, strict=True)]
    return [want - size - before for want, size, before in zip(needed, x.shape[2:], begin, strict=True)]


def _number_whole(indices: Tensor, x: Tensor, *, columns_first: bool) -> Tensor:
    """Turn places within a plane into places in the whole input."""
    plane = x[0, 0].numel()
    if columns_first and x.ndim == 4:
        height, width = x.shape[2:]
        indices = indices % width * height + indices // width
    planes = torch.arange(x.shape[0] * x.shape[1], device=x.device) * plane
    return indices + planes.reshape(x.shape[0], x.shape[1], *[1] * (x.ndim - 2))


def read_mean_pool(node: Node) -> dict[str, Any]:
    """Return the arguments of `mean_pool`."""
    return {"window": read_window(node), "padded": bool(node.attributes.get("count_include_pad", 0))}


@operator("AveragePool", since=7, prepare=read_mean_pool)
def mean_pool(x: Tensor, *, window: Window, padded: bool) -> Tensor:
    """Mean of each window, padding counted or not."""
    kernel = _find_kernel(window)
    strides, dilations, begin, _ = window.spread(len(kernel))
    fits = window.is_symmetric and set(dilations) == {1} and all(2 * pad <= k for pad, k in zip(begin, kernel, strict=True))
    if fits and x.ndim in MEAN_POOLS:
        return MEAN_POOLS[x.ndim](x, kernel, strides, begin, window.ceil, padded)
    ones = torch.ones_like(x[:1, :1])
    if padded:
        ones = pad_axes(ones, *window.find_pads(x.shape[2:], kernel), value=1.0)
    return _sum_windows(x, window) / _sum_windows(ones, window, x.shape[2:])


def _sum_windows(x: Tensor, window: Window, sizes: Sequence[int] | None = None) -> Tensor:
    """Sum each window by a convolution with ones; `sizes` are those of the input when x is padded already."""
    kernel = _find_kernel(window)
    strides, dilations, *_ = window.spread(len(kernel))
    sizes = x.shape[2:] if sizes is None else sizes
    begin, _ = window.find_pads(sizes, kernel)
    needed = [
        (n - 1) * s + (k - 1) * d + 1
        for n, k, s, d in zip(window.find_sizes(sizes, kernel), kernel, strides, dilations, strict=True)
    ]
    done = [have - size for have, size in zip(x.shape[2:], sizes, strict=True)]
    before = [0 if extra else pad for extra, pad in zip(done, begin, strict=True)]
    after = [want - have - pad for want, have, pad in zip(needed, x.shape[2:], before, strict=True)]
    flat = pad_axes(x, before, after).reshape(-1, 1, *needed)
    sums = CONVOLUTIONS[x.ndim](flat, x.new_ones(1, 1, *kernel), None, strides, 0, dilations)
    return sums.reshape(*x.shape[:2], *sums.shape[2:])


def _read_norm_pool(node: Node) -> dict[str, Any]:
    return {"window": read_window(node), "p": node.attributes.get("p", 2)}


@operator("LpPool", since=2, prepare=_read_norm_pool)
def norm_pool(x: Tensor, *, window: Window, p: int) -> Tensor:
    """p-norm of each window."""
    return _sum_windows(x.abs() ** p, window) ** (1 / p)


@operator("GlobalAveragePool")
def global_mean_pool(x: Tensor) -> Tensor:
    """Mean over all positions."""
    return x.mean(tuple(range(2, x.ndim)), keepdim=True)


@operator("GlobalMaxPool")
def global_max_pool(x: Tensor) -> Tensor:
    """Largest element over all positions."""
    return x.amax(tuple(range(2, x.ndim)), keepdim=True)


@operator("GlobalLpPool", since=2)
def global_norm_pool(x: Tensor, *, p: int = 2) -> Tensor:
    """p-norm over all positions."""
    return torch.linalg.vector_norm(x, p, tuple(range(2, x.ndim)), keepdim=True)


def _read_unpool(node: Node) -> dict[str, Any]:
    return {"window": read_window(node)}


@operator("MaxUnpool", since=9, sizes=(2,), prepare=_read_unpool)
def max_unpool(x: Tensor, indices: Tensor, sizes: Tensor | None = None, *, window: Window) -> Tensor:
    """Put each element back where a max pool found it, zero elsewhere."""
    kernel = _find_kernel(window)
    strides, _, begin, end = window.spread(len(kernel))
    spatial = [(n - 1) * s + k - b - e for n, s, k, b, e in zip(x.shape[2:], strides, kernel, begin, end, strict=True)]
    shape = [*x.shape[:2], *spatial]
    flat = x.new_zeros(torch.Size(shape).numel()).scatter(0, indices.reshape(-1), x.reshape(-1)).reshape(shape)
    if sizes is None:
        return flat
    return pad_axes(flat, [0] * len(spatial), [want - have for want, have in zip(read_ints(sizes)[2:], spatial, strict=True)])
