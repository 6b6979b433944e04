"""Shapes: reading them, and giving the same values another arrangement."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from worker.engine.models.onnx.operators.placement import align, make_shape, read_ints
from worker.engine.models.onnx.registry import Family, Node

operator = Family("shape")


@operator("Shape", since=1, shape_only=True)
def shape(x: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    """Sizes of the axes from `start` to `end`."""
    return make_shape(x.shape[start:end])


@operator("Size", shape_only=True)
def size(x: Tensor) -> Tensor:
    """Count the elements."""
    return make_shape(x.numel())


@operator("Reshape", since=5, sizes=(1,), relays=True)
def reshape(x: Tensor, sizes: Tensor, *, allowzero: int = 0) -> Tensor:
    """Other sizes; 0 keeps an axis (unless allowzero), -1 takes what is left."""
    target = read_ints(sizes)
    if 0 in target and not allowzero:
        target = [x.shape[axis] if length == 0 else length for axis, length in enumerate(target)]
    return x.reshape(target)


@operator("Flatten", since=1, relays=True)
def flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    """Two axes: everything before `axis`, everything from it on."""
    split = axis if axis >= 0 else axis + x.ndim
    return x.reshape(math.prod(x.shape[:split]), math.prod(x.shape[split:]))


@operator("Squeeze", since=13, sizes=(1,), relays=True)
def squeeze(x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Drop axes of size one."""
    return x.squeeze() if axes is None else x.squeeze(tuple(read_ints(axes)))


@operator("Squeeze", since=1, until=13, relays=True)
def squeeze_fixed(x: Tensor, *, axes: Sequence[int] | None = None) -> Tensor:
    """Drop axes of size one, axes as an attribute."""
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


@operator("Unsqueeze", since=13, sizes=(1,), relays=True)
def unsqueeze(x: Tensor, axes: Tensor) -> Tensor:
    """Insert axes of size one at positions of the result."""
    return unsqueeze_fixed(x, axes=read_ints(axes))


@operator("Unsqueeze", since=1, until=13, relays=True)
def unsqueeze_fixed(x: Tensor, *, axes: Sequence[int]) -> Tensor:
    """Insert axes of size one, axes as an attribute."""
    rank = x.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


@operator("Transpose", relays=True)
def transpose(x: Tensor, *, perm: Sequence[int] | None = None) -> Tensor:
    """Permute the axes, or reverse them."""
    return x.permute(tuple(range(x.ndim))[::-1] if perm is None else tuple(perm))


@operator("Expand", since=8, sizes=(1,), relays=True)
def expand(x: Tensor, sizes: Tensor) -> Tensor:
    """Broadcast with a shape, both ways."""
    wanted = read_ints(sizes)
    wanted = [1] * (x.ndim - len(wanted)) + wanted
    new = len(wanted) - x.ndim
    return x.expand(wanted[:new] + [have if want == 1 else want for have, want in zip(x.shape, wanted[new:], strict=True)])


@operator("Tile", since=6, sizes=(1,), relays=True)
def tile(x: Tensor, repeats: Tensor) -> Tensor:
    """Repeat along each axis."""
    return x.repeat(read_ints(repeats))


@operator("Concat", since=4, relays=True)
def concat(*pieces: Tensor, axis: int) -> Tensor:
    """Join along an axis."""
    if any(piece.is_cpu is not pieces[0].is_cpu for piece in pieces):
        pieces = align(*pieces)
    return torch.cat(pieces, axis)


def _split_evenly(x: Tensor, axis: int, count: int) -> tuple[Tensor, ...]:
    length = x.shape[axis]
    chunk = -(-length // count)
    sizes = [max(0, min(chunk, length - n * chunk)) for n in range(count)]
    return x.split(sizes, axis)


def _read_split(node: Node) -> dict[str, int | None]:
    return {"axis": node.attributes.get("axis", 0), "count": node.attributes.get("num_outputs", len(node.outputs))}


@operator("Split", since=13, sizes=(1,), relays=True, many=True, prepare=_read_split)
def split(x: Tensor, sizes: Tensor | None = None, *, axis: int, count: int) -> tuple[Tensor, ...]:
    """Cut along an axis, evenly or to given sizes."""
    return _split_evenly(x, axis, count) if sizes is None else x.split(read_ints(sizes), axis)


def _read_fixed_split(node: Node) -> dict[str, int | Sequence[int] | None]:
    attributes = node.attributes
    return {"axis": attributes.get("axis", 0), "count": len(node.outputs), "split": attributes.get("split")}


@operator("Split", since=2, until=13, relays=True, many=True, prepare=_read_fixed_split)
def split_fixed(x: Tensor, *, axis: int, count: int, split: Sequence[int] | None) -> tuple[Tensor, ...]:
    """Cut along an axis, sizes as an attribute."""
    return _split_evenly(x, axis, count) if split is None else x.split(list(split), axis)


def _slice(x: Tensor, axis: int, start: int, end: int, step: int) -> Tensor:
    picked = range(x.shape[axis])[start:end:step]
    if step == 1:
        return x.narrow(axis, picked.start, len(picked))
    if step > 0:
        return x[(slice(None),) * axis + (slice(picked.start, picked.stop, step),)]
    return x.index_select(axis, torch.tensor(picked, dtype=torch.int64, device=x.device))


@operator("Slice", since=10, sizes=(1, 2, 3, 4), relays=True)
def slice_by_inputs(x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None) -> Tensor:
    """Python's slices along some axes."""
    first, last = read_ints(starts), read_ints(ends)
    along = range(len(first)) if axes is None else read_ints(axes)
    strides = [1] * len(first) if steps is None else read_ints(steps)
    for axis, start, end, step in zip(along, first, last, strides, strict=True):
        x = _slice(x, axis % x.ndim, start, end, step)
    return x


@operator("Slice", since=1, until=10, relays=True)
def slice_fixed(x: Tensor, *, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int] | None = None) -> Tensor:
    """Python's slices along some axes, as attributes."""
    for axis, start, end in zip(range(len(starts)) if axes is None else axes, starts, ends, strict=True):
        x = _slice(x, axis % x.ndim, start, end, 1)
    return x


def _read_blocks(node: Node) -> dict[str, int | bool]:
    return {"blocksize": node.attributes["blocksize"], "depth_first": node.attributes.get("mode", "DCR") == "DCR"}


@operator("DepthToSpace", since=1, prepare=_read_blocks)
def depth_to_space(x: Tensor, *, blocksize: int, depth_first: bool) -> Tensor:
    """Move blocks of channels into height and width."""
    batch, channels, height, width = x.shape
    depth = channels // blocksize**2
    if depth_first:
        blocks = x.reshape(batch, blocksize, blocksize, depth, height, width).permute(0, 3, 4, 1, 5, 2)
    else:
        blocks = x.reshape(batch, depth, blocksize, blocksize, height, width).permute(0, 1, 4, 2, 5, 3)
    return blocks.reshape(batch, depth, height * blocksize, width * blocksize)


@operator("SpaceToDepth", since=1, prepare=_read_blocks)
def space_to_depth(x: Tensor, *, blocksize: int, depth_first: bool) -> Tensor:
    """Move blocks of height and width into channels."""
    batch, channels, height, width = x.shape
    blocks = x.reshape(batch, channels, height // blocksize, blocksize, width // blocksize, blocksize)
    order = (0, 3, 5, 1, 2, 4) if depth_first else (0, 1, 3, 5, 2, 4)
    return blocks.permute(order).reshape(batch, channels * blocksize**2, height // blocksize, width // blocksize)


@operator("Trilu", since=14, relays=True)
def triangle(x: Tensor, k: Tensor | None = None, *, upper: int = 1) -> Tensor:
    """Zero below (or above) the k-th diagonal of the last two axes."""
    diagonal = 0 if k is None else int(k)
    return torch.triu(x, diagonal) if upper else torch.tril(x, diagonal)


@operator("CenterCropPad", since=18, sizes=(1,))
def center_crop_pad(x: Tensor, sizes: Tensor, *, axes: Sequence[int] | None = None) -> Tensor:
    """Cut or zero-pad around the centre to given sizes."""
    for axis, length in zip(range(x.ndim) if axes is None else axes, read_ints(sizes), strict=True):
        has = x.shape[axis]
        if length <= has:
            x = x.narrow(axis, (has - length) // 2, length)
        else:
            before, after = (length - has) // 2, (length - has) - (length - has) // 2
            pieces = [x.new_zeros([n if a == axis % x.ndim else s for a, s in enumerate(x.shape)]) for n in (before, after)]
            x = torch.cat((pieces[0], x, pieces[1]), axis)
    return x
