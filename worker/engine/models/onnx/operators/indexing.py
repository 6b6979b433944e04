"""Reading and writing elements by index."""

import math

import torch
from torch import Tensor

from worker.engine.models.onnx.operators.placement import align
from worker.engine.models.onnx.registry import Family, Node

operator = Family("indexing")


def _count_from_start(indices: Tensor, length: int) -> Tensor:
    """Negative indices count from the end."""
    return torch.where(indices < 0, indices + length, indices)


@operator("Gather", relays=True, parameters=(0,))
def gather(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    """Pick slices along an axis: an embedding when the axis is the first of a matrix."""
    if indices.ndim == 0 and indices.is_cpu:
        return x.select(axis, int(indices))
    if x.is_cpu is not indices.is_cpu:
        x, indices = align(x, indices)
    axis %= x.ndim
    indices = _count_from_start(indices, x.shape[axis])
    if axis == 0 and x.ndim == 2 and x.is_floating_point():
        return torch.embedding(x, indices)
    picked = x.index_select(axis, indices.reshape(-1))
    return picked if indices.ndim == 1 else picked.reshape(x.shape[:axis] + indices.shape + x.shape[axis + 1 :])


@operator("GatherElements", since=11)
def gather_elements(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    """Pick one element per position along an axis."""
    x, indices = align(x, indices)
    return x.gather(axis, _count_from_start(indices.long(), x.shape[axis]))


@operator("GatherND", since=11)
def gather_nd(x: Tensor, indices: Tensor, *, batch_dims: int = 0) -> Tensor:
    """Pick slices by index tuples, the last axis of `indices`, below shared batch axes."""
    x, indices = align(x, indices)
    batches = math.prod(x.shape[:batch_dims])
    flat = x.reshape(batches, *x.shape[batch_dims:])
    tuples = indices.reshape(batches, -1, indices.shape[-1])
    rows = torch.arange(batches, device=x.device).reshape(-1, 1).expand(tuples.shape[:2])
    picked = flat[(rows, *tuples.unbind(-1))]
    return picked.reshape(indices.shape[:-1] + x.shape[batch_dims + indices.shape[-1] :])


REDUCTIONS = {"none": None, "add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _read_scatter(node: Node) -> dict[str, int | str | None]:
    attributes = node.attributes
    return {"axis": attributes.get("axis", 0), "reduce": REDUCTIONS[attributes.get("reduction", "none")]}


@operator("Scatter", since=9, until=11, prepare=_read_scatter)
@operator("ScatterElements", since=11, prepare=_read_scatter)
def scatter_elements(x: Tensor, indices: Tensor, updates: Tensor, *, axis: int, reduce: str | None) -> Tensor:
    """Write one element per position along an axis."""
    x, indices, updates = align(x, indices, updates)
    indices = _count_from_start(indices.long(), x.shape[axis])
    if reduce is None:
        return x.scatter(axis, indices, updates)
    return x.scatter_reduce(axis, indices, updates, reduce)


def _read_scatter_nd(node: Node) -> dict[str, str | None]:
    return {"reduce": REDUCTIONS[node.attributes.get("reduction", "none")]}


@operator("ScatterND", since=11, prepare=_read_scatter_nd)
def scatter_nd(x: Tensor, indices: Tensor, updates: Tensor, *, reduce: str | None) -> Tensor:
    """Write slices by index tuples, the last axis of `indices`."""
    x, indices, updates = align(x, indices, updates)
    depth = indices.shape[-1]
    tuples = indices.reshape(-1, depth).unbind(-1)
    if reduce is None:
        places = tuple(_count_from_start(entry, x.shape[axis]) for axis, entry in enumerate(tuples))
        return x.index_put(places, updates.reshape(-1, *x.shape[depth:]))
    strides = [math.prod(x.shape[axis + 1 : depth]) for axis in range(depth)]
    offsets = [_count_from_start(entry, x.shape[axis]) * strides[axis] for axis, entry in enumerate(tuples)]
    inner = math.prod(x.shape[depth:])
    rows = torch.stack(offsets).sum(0).unsqueeze(1).expand(-1, inner)
    table = x.reshape(-1, inner)
    return table.scatter_reduce(0, rows, updates.reshape(-1, inner), reduce).reshape(x.shape)


@operator("NonZero", since=9, dynamic_shape=True)
def nonzero(x: Tensor) -> Tensor:
    """Index tuples of the elements that are not zero, one row per axis."""
    return torch.nonzero(x).t() if x.ndim else torch.nonzero(x.reshape(1)).t()


@operator("Compress", since=9, dynamic_shape=True)
def compress(x: Tensor, condition: Tensor, *, axis: int | None = None) -> Tensor:
    """Keep the slices whose condition holds."""
    if axis is None:
        x, axis = x.reshape(-1), 0
    picked = torch.nonzero(condition).reshape(-1).to(x.device)
    return x.index_select(axis, picked)


@operator("OneHot", since=9, sizes=(1,), settings=(2,))
def one_hot(indices: Tensor, depth: Tensor, values: Tensor, *, axis: int = -1) -> Tensor:
    """`values[1]` at each index along a new axis, else `values[0]`."""
    indices, values = align(indices, values)
    count = int(depth)
    classes = torch.arange(count, device=indices.device)
    hot = _count_from_start(indices, count).unsqueeze(-1) == classes
    return torch.where(hot, values[1], values[0]).movedim(-1, axis)


def _read_unique(node: Node) -> dict[str, int | bool | None]:
    return {"axis": node.attributes.get("axis"), "rising": bool(node.attributes.get("sorted", 1))}


@operator("Unique", since=11, dynamic_shape=True, many=True, prepare=_read_unique)
def unique(x: Tensor, *, axis: int | None, rising: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Distinct elements or slices, where each stands first, where each element went, and counts."""
    values, inverse, counts = torch.unique(x, sorted=True, return_inverse=True, return_counts=True, dim=axis)
    flat = inverse.reshape(-1)
    order = torch.arange(flat.numel(), device=x.device)
    first = torch.full_like(counts, flat.numel()).scatter_reduce(0, flat, order, "amin")
    if rising:
        return values, first, flat, counts
    ranks = torch.argsort(first)
    along = 0 if axis is None else axis
    return values.index_select(along, ranks), first[ranks], torch.argsort(ranks)[flat], counts[ranks]


@operator("ReverseSequence", since=10)
def reverse_sequence(x: Tensor, lengths: Tensor, *, batch_axis: int = 1, time_axis: int = 0) -> Tensor:
    """Reverse the first `lengths[b]` steps of each sequence."""
    x, lengths = align(x, lengths)
    steps = torch.arange(x.shape[time_axis], device=x.device)
    back = lengths.reshape(-1, 1) - 1 - steps
    order = torch.where(back >= 0, back, steps)  # [B, T]
    order = order if batch_axis < time_axis else order.t()
    index = order.reshape(order.shape + (1,) * (x.ndim - 2)).expand(x.shape)
    return x.gather(time_axis, index)


def _check_cache_mode(node: Node) -> dict[str, int | bool]:
    return {"axis": node.attributes.get("axis", -2), "circular": node.attributes.get("mode", "linear") == "circular"}


@operator("TensorScatter", since=24, prepare=_check_cache_mode)
def tensor_scatter(past: Tensor, update: Tensor, starts: Tensor | None = None, *, axis: int, circular: bool) -> Tensor:
    """Write a block of steps into a cache at each example's own position."""
    axis %= past.ndim
    steps = torch.arange(update.shape[axis], device=past.device)
    places = steps if starts is None else steps + starts.to(past.device).reshape(-1, 1)
    if circular:
        places = places % past.shape[axis]
    shape = [1] * past.ndim
    shape[axis] = update.shape[axis]
    if starts is not None:
        shape[0] = past.shape[0]
    return past.scatter(axis, places.reshape(shape).expand(update.shape), update)
