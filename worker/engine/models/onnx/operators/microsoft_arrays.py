"""Operators that ONNX Runtime had before the standard did, or has beside it (domain com.microsoft)."""

from typing import Any

import torch
from torch import Tensor

from worker.engine.models.onnx.operators.convolution import conv_transpose, read_transposed
from worker.engine.models.onnx.operators.creation import number_range
from worker.engine.models.onnx.operators.indexing import gather_nd, unique
from worker.engine.models.onnx.operators.padding import pad
from worker.engine.models.onnx.operators.placement import read_ints
from worker.engine.models.onnx.operators.resizing import grid_sample
from worker.engine.models.onnx.operators.shape import triangle
from worker.engine.models.onnx.registry import Family, Node, UncoveredError

operator = Family("com.microsoft arrays", "com.microsoft")


operator("Trilu", relays=True)(triangle)
operator("GatherND")(gather_nd)
operator("Inverse")(torch.inverse)


@operator("ExpandDims", sizes=(1,), relays=True)
def expand_dims(x: Tensor, axis: Tensor) -> Tensor:
    """Insert an axis of size one."""
    return x.unsqueeze(int(axis))


@operator("Range", sizes=(0, 1, 2))
def numbers(start: Tensor, limit: Tensor, step: Tensor | None = None) -> Tensor:
    """Numbers from start to limit (not included) by a step."""
    found: Tensor = number_range(start, limit, torch.ones_like(start) if step is None else step)
    return found


@operator("Pad", settings=(2,), lists=(2,), sizes=(1,))
def pad_around(x: Tensor, pads: Tensor, value: Tensor | list[float] | None = None, *, mode: str = "constant") -> Tensor:
    """Pad or cut before and after every axis."""
    found: Tensor = pad(x, pads.reshape(-1), value, mode=mode)
    return found


@operator("Unique", dynamic_shape=True)
def first_seen(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distinct elements in the order of their first places, where each element went, and counts."""
    values, _, places, counts = unique(x, axis=None, rising=False)
    return values, places, counts


@operator("UnfoldTensor")
def unfold(x: Tensor, *, size: int, dim: int = -1, step: int = 1) -> Tensor:
    """All slices of a size along an axis, as a new last axis."""
    return x.unfold(dim, size, step)


def _read_sampling(node: Node) -> dict[str, Any]:
    get = node.attributes.get
    padding = get("padding_mode", "zeros")
    return {"mode": get("mode", "bilinear"), "padding": padding, "align": bool(get("align_corners", 0))}


operator("GridSample", prepare=_read_sampling)(grid_sample)


def _read_metric(node: Node) -> dict[str, bool]:
    metric = node.attributes.get("metric", "sqeuclidean")
    if metric not in {"euclidean", "sqeuclidean"}:
        message = f"with metric {metric} is not supported"
        raise UncoveredError(message)
    return {"squared": metric == "sqeuclidean"}


@operator("CDist", prepare=_read_metric)
def distances(a: Tensor, b: Tensor, *, squared: bool) -> Tensor:
    """Euclidean distance, or its square, of each row of one matrix from each row of another."""
    return (a.unsqueeze(1) - b).square().sum(-1) if squared else torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


@operator("ConvTransposeWithDynamicPads", parameters=(0, 1, 3), sizes=(2,), prepare=read_transposed)
def conv_transpose_padded(
    x: Tensor, weight: Tensor, pads: Tensor | None = None, bias: Tensor | None = None, *, window: Any, **rest: Any
) -> Tensor:
    """The convolution's transpose, cut by amounts that are an input."""
    if pads is not None:
        amounts = read_ints(pads)
        half = len(amounts) // 2
        window = window.with_pads(amounts[:half], amounts[half:])
    return conv_transpose(x, weight, bias, window=window, **rest)


def _read_crop(node: Node) -> dict[str, Any]:
    get = node.attributes.get
    return {"nearest": get("mode", "bilinear") == "nearest", "outside": get("extrapolation_value", 0.0)}


@operator("CropAndResize", sizes=(3,), prepare=_read_crop)
def crop_and_resize(x: Tensor, boxes: Tensor, batches: Tensor, sizes: Tensor, *, nearest: bool, outside: float) -> Tensor:
    """Crop boxes [y1, x1, y2, x2] in shares of the image to one size, corners aligned."""
    y = x[batches.to(x.device).long()]
    beyond = torch.zeros(len(boxes), 1, 1, dtype=torch.bool, device=x.device)
    for axis, count in enumerate(read_ints(sizes)):
        size = x.shape[2 + axis]
        first, last = boxes[:, axis : axis + 1] * (size - 1), boxes[:, axis + 2 : axis + 3] * (size - 1)
        steps = torch.arange(count, device=x.device) / max(count - 1, 1)
        places = first + steps * (last - first) if count > 1 else (first + last) / 2  # [R, count]
        off = (places < 0) | (places > size - 1)
        beyond = beyond | (off.unsqueeze(2) if axis == 0 else off.unsqueeze(1))
        y = _interpolate(y, places.clamp(0, size - 1), 2 + axis, nearest=nearest)
    return torch.where(beyond.unsqueeze(1), outside, y)


def _interpolate(x: Tensor, places: Tensor, axis: int, *, nearest: bool) -> Tensor:
    """Sample [R, C, H, W] along an axis at places [R, count]."""

    def pick(index: Tensor) -> Tensor:
        shape: list[int] = [len(index), x.shape[1], *x.shape[2:]]
        shape[axis] = index.shape[1]
        spread = index[:, None, :, None] if axis == 2 else index[:, None, None, :]
        return x.gather(axis, spread.expand(shape))

    if nearest:
        return pick(torch.floor(places + 0.5).long())
    low = places.detach().floor()
    share = places - low
    share = share[:, None, :, None] if axis == 2 else share[:, None, None, :]
    return pick(low.long()) * (1 - share) + pick(places.detach().ceil().long()) * share
