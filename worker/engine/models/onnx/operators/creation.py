"""Tensors made from numbers, and random ones."""

import math

import torch
from torch import Tensor

from worker.engine.models.onnx.operators.placement import read_ints
from worker.engine.models.onnx.registry import Family, Node

operator = Family("creation")


MAX_ELEMENTS = 2**31
"""What is made from a few numbers has no more elements: a file of some bytes must not ask for all memory."""


def _check_size(count: float) -> None:
    if count > MAX_ELEMENTS:
        message = f"{count:.3g} elements are asked for, at most {MAX_ELEMENTS} are made"
        raise ValueError(message)


def _read_fill(node: Node) -> dict[str, Tensor]:
    return {"value": node.attributes.get("value", torch.zeros(1)).reshape(())}


@operator("ConstantOfShape", since=9, sizes=(0,), prepare=_read_fill)
def constant_of_shape(sizes: Tensor, *, value: Tensor) -> Tensor:
    """One value in every place, on the device of the value."""
    shape = read_ints(sizes)
    _check_size(math.prod(shape))
    return value.expand(shape).contiguous()


@operator("Range", since=11, sizes=(0, 1, 2))
def number_range(start: Tensor, limit: Tensor, step: Tensor, *, stash_type: torch.dtype = torch.float32) -> Tensor:
    """Numbers from start to limit (not included) by a step."""
    first, last, by = start.item(), limit.item(), step.item()
    _check_size((last - first) / by)
    return torch.arange(first, last, by, dtype=start.dtype, device=start.device)


@operator("EyeLike", since=9)
def eye_like(x: Tensor, *, dtype: torch.dtype | None = None, k: int = 0) -> Tensor:
    """Ones on the k-th diagonal, else zero, in the shape of a matrix."""
    ones = torch.ones_like(x, dtype=dtype or x.dtype)
    return torch.triu(torch.tril(ones, k), k)


def _read_shape(node: Node) -> dict[str, object]:
    kept = {name: value for name, value in node.attributes.items() if name != "seed"}
    return {**kept, "shape": tuple(node.attributes.get("shape", ()))}


@operator("RandomNormal", dynamic_shape=True, prepare=_read_shape)
def random_normal(*, shape: tuple[int, ...], mean: float = 0.0, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Normal numbers."""
    return mean + scale * torch.randn(shape, dtype=dtype)


@operator("RandomUniform", dynamic_shape=True, prepare=_read_shape)
def random_uniform(*, shape: tuple[int, ...], low: float = 0.0, high: float = 1.0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Uniform numbers."""
    return low + (high - low) * torch.rand(shape, dtype=dtype)


@operator("RandomNormalLike", dynamic_shape=True)
def random_normal_like(
    x: Tensor, *, mean: float = 0.0, scale: float = 1.0, dtype: torch.dtype | None = None, seed: float | None = None
) -> Tensor:
    """Normal numbers in the shape of a tensor."""
    return mean + scale * torch.randn_like(x, dtype=dtype or x.dtype)


@operator("RandomUniformLike", dynamic_shape=True)
def random_uniform_like(
    x: Tensor, *, low: float = 0.0, high: float = 1.0, dtype: torch.dtype | None = None, seed: float | None = None
) -> Tensor:
    """Uniform numbers in the shape of a tensor."""
    return low + (high - low) * torch.rand_like(x, dtype=dtype or x.dtype)


@operator("Bernoulli", since=15, dynamic_shape=True)
def bernoulli(x: Tensor, *, dtype: torch.dtype | None = None, seed: float | None = None) -> Tensor:
    """One with the given probability, else zero."""
    return torch.bernoulli(x).to(dtype or x.dtype)


@operator("Multinomial", since=7, dynamic_shape=True)
def multinomial(x: Tensor, *, dtype: torch.dtype = torch.int32, sample_size: int = 1, seed: float | None = None) -> Tensor:
    """Class numbers drawn by unnormalised log-probabilities."""
    return torch.multinomial(torch.softmax(x, -1), sample_size, replacement=True).to(dtype)


def _read_dropout(node: Node) -> dict[str, bool | float]:
    return {"ratio": node.attributes.get("ratio", 0.5), "masked": node.has_output(1)}


@operator("Dropout", since=12, settings=(1,), prepare=_read_dropout)
def dropout(
    x: Tensor, share: Tensor | None = None, training: Tensor | None = None, *, ratio: float, masked: bool
) -> Tensor | tuple[Tensor, Tensor]:
    """Return the input and a mask of ones; in training mode, drop at random."""
    if training is None or not bool(training):
        return (x, torch.ones_like(x, dtype=torch.bool)) if masked else x
    rate = ratio if share is None else float(share)
    kept = torch.rand_like(x) >= rate
    y = x * kept / (1 - rate)
    return (y, kept) if masked else y


@operator("Dropout", since=7, until=12, prepare=_read_dropout)
def dropout_fixed(x: Tensor, *, ratio: float, masked: bool) -> Tensor | tuple[Tensor, Tensor]:
    """Return the input and a mask of ones."""
    return (x, torch.ones_like(x, dtype=torch.bool)) if masked else x
