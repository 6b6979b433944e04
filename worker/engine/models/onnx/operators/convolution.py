"""Convolutions."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from worker.engine.models.onnx.operators.windows import Window, pad_axes, read_window
from worker.engine.models.onnx.registry import Family, Node

operator = Family("convolution")

CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {3: torch.conv1d, 4: torch.conv2d, 5: torch.conv3d}
TRANSPOSED: dict[int, Callable[..., Tensor]] = {3: torch.conv_transpose1d, 4: torch.conv_transpose2d, 5: torch.conv_transpose3d}


def read_convolution(node: Node) -> dict[str, Any]:
    """Return the arguments of `conv`: torch's own padding where it says the same, else the window."""
    window = read_window(node)
    return {
        "strides": window.strides or 1,
        "padding": (window.begin or 0) if window.is_symmetric else 0,
        "dilations": window.dilations or 1,
        "groups": node.attributes.get("group", 1),
        "window": None if window.is_symmetric else window,
    }


@operator("Conv", parameters=(0, 1, 2), prepare=read_convolution)
def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    strides: Any,
    padding: Any,
    dilations: Any,
    groups: int,
    window: Window | None,
) -> Tensor:
    """Convolution (cross-correlation) over one to three axes."""
    if window is not None:
        x = pad_axes(x, *window.find_pads(x.shape[2:], weight.shape[2:]))
    return CONVOLUTIONS[x.ndim](x, weight, bias, strides, padding, dilations, groups)


def read_transposed(node: Node) -> dict[str, Any]:
    """Return the arguments of `conv_transpose`."""
    attributes = node.attributes
    return {
        "window": read_window(node),
        "groups": attributes.get("group", 1),
        "extra": attributes.get("output_padding"),
        "wanted": attributes.get("output_shape"),
    }


def _find_transposed_pads(
    sizes: Sequence[int], kernel: Sequence[int], window: Window, extra: Sequence[int], wanted: Sequence[int] | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    strides, dilations, begin, end = window.spread(len(sizes))
    if window.same is not None and wanted is None:
        wanted = [size * stride for size, stride in zip(sizes, strides, strict=True)]
    if wanted is None:
        return begin, end
    full = [
        (size - 1) * stride + more + (k - 1) * dilation + 1
        for size, k, stride, dilation, more in zip(sizes, kernel, strides, dilations, extra, strict=True)
    ]
    total = [have - want for have, want in zip(full, wanted[-len(sizes) :], strict=True)]
    small, large = tuple(max(n, 0) // 2 for n in total), tuple(n - max(n, 0) // 2 for n in total)
    return (small, large) if window.same == "SAME_UPPER" or min(total) < 0 else (large, small)


@operator("ConvTranspose", parameters=(0, 1, 2), prepare=read_transposed)
def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    window: Window,
    groups: int,
    extra: Sequence[int] | None,
    wanted: Sequence[int] | None,
) -> Tensor:
    """The convolution's transpose: each input element adds a weighted kernel to the output."""
    rank = x.ndim - 2
    extra = extra or (0,) * rank
    strides, dilations, *_ = window.spread(rank)
    begin, end = _find_transposed_pads(x.shape[2:], weight.shape[2:], window, extra, wanted)
    compute = TRANSPOSED[x.ndim]
    if begin == end and all(more < max(pair) for more, *pair in zip(extra, strides, dilations, strict=True)):
        return compute(x, weight, bias, strides, begin, extra, groups, dilations)
    full = compute(x, weight, None, strides, 0, 0, groups, dilations)
    cut = pad_axes(full, [-pad for pad in begin], [more - pad for more, pad in zip(extra, end, strict=True)])
    return cut if bias is None else cut + bias.reshape(-1, *[1] * rank)


def _read_deformed(node: Node) -> dict[str, Any]:
    get = node.attributes.get
    return {"window": read_window(node), "groups": get("group", 1), "offset_groups": get("offset_group", 1)}


@operator("DeformConv", since=19, parameters=(0, 1, 3), prepare=_read_deformed)
def deformed_conv(
    x: Tensor,
    weight: Tensor,
    offset: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    window: Window,
    groups: int,
    offset_groups: int,
) -> Tensor:
    """Convolution whose samples are moved by offsets, interpolated linearly, and weighted by a mask."""
    kernel, sizes = weight.shape[2:], offset.shape[2:]
    rank, taps = len(kernel), math.prod(kernel)
    strides, dilations, begin, _ = window.spread(rank)
    moved = offset.reshape(x.shape[0], offset_groups, taps, rank, *sizes)
    places = []
    for axis in range(rank):
        starts = torch.arange(sizes[axis], dtype=x.dtype, device=x.device) * strides[axis] - begin[axis]
        steps = torch.arange(kernel[axis], dtype=x.dtype, device=x.device) * dilations[axis]
        grid = steps.reshape(-1, *[1] * (rank - 1 - axis)).expand(kernel[axis:] if axis else kernel).expand(kernel)
        places.append(moved[:, :, :, axis] + grid.reshape(taps, *[1] * rank) + starts.reshape(-1, *[1] * (rank - 1 - axis)))
    grouped = x.reshape(x.shape[0], offset_groups, -1, *x.shape[2:])
    patches = _sample(grouped, places)  # [N, offset groups, C / offset groups, taps, positions]
    if mask is not None:
        patches = patches * mask.reshape(x.shape[0], offset_groups, 1, taps, -1)
    columns = patches.reshape(x.shape[0], groups, -1, patches.shape[-1])
    y = (weight.reshape(groups, weight.shape[0] // groups, -1) @ columns).reshape(x.shape[0], -1, *sizes)
    return y if bias is None else y + bias.reshape(-1, *[1] * rank)


def _sample(x: Tensor, places: Sequence[Tensor]) -> Tensor:
    """Interpolate x [N, G, C, *sizes] linearly at places [N, G, taps, *positions] per axis; zero outside."""
    sizes = x.shape[3:]
    flat = x.flatten(3)
    total = x.new_zeros(())
    for corner in itertools.product((0, 1), repeat=len(sizes)):
        index = torch.zeros_like(places[0], dtype=torch.int64)
        share = torch.ones_like(places[0])
        for place, upper, size in zip(places, corner, sizes, strict=True):
            low = place.detach().floor()
            at = low + upper
            inside = (at >= 0) & (at < size)
            share = share * torch.where(inside, place - low if upper else 1 - (place - low), 0.0)
            index = index * size + at.clamp(0, size - 1).long()
        picked = flat.gather(3, index.flatten(2).unsqueeze(2).expand(-1, -1, x.shape[2], -1))
        total = total + picked * share.flatten(2).unsqueeze(2)
    return total.reshape(*x.shape[:3], places[0].shape[2], -1)


def _read_causal(node: Node) -> dict[str, bool]:
    return {"swish": node.attributes.get("activation", "none") in {"silu", "swish"}}


@operator("CausalConvWithState", since=27, parameters=(1, 2), prepare=_read_causal, many=True)
def causal_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, past: Tensor | None = None, *, swish: bool
) -> tuple[Tensor, Tensor]:
    """Depthwise convolution over the past only; also the last k - 1 inputs as the next state."""
    kept = weight.shape[-1] - 1
    before = x.new_zeros(x.shape[0], x.shape[1], kept) if past is None else past
    padded = torch.cat((before, x), -1)
    y = torch.conv1d(padded, weight, bias, groups=x.shape[1])
    return torch.nn.functional.silu(y) if swish else y, padded[..., padded.shape[-1] - kept :]
