"""One axis of a Resize: which input elements each output element mixes, and by what weights."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]
Coordinates = Callable[["Axis", Floats], Floats]


@dataclass(frozen=True)
class Axis:
    """One resized axis: `size` elements become `count`; `scale` as the model gives it; `roi` is the part that is kept."""

    size: int
    count: int
    scale: float
    roi: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class Rule:
    """How a Resize interpolates; the names are those of ONNX's attributes."""

    mode: str
    coordinates: str
    rounding: str = "floor"
    cubic_a: float = -0.75
    exclude_outside: bool = False
    antialias: bool = False
    extrapolation: float = 0.0


def _align_corners(axis: Axis, x: Floats) -> Floats:
    # The standard divides by scale x size - 1, a fraction; ONNX Runtime, which is deployed, by count - 1.
    return np.zeros_like(x) if axis.count == 1 else x * (axis.size - 1) / (axis.count - 1)


def _crop(axis: Axis, x: Floats) -> Floats:
    start, end = axis.roi
    if axis.count == 1:
        return np.full_like(x, 0.5 * (start + end) * (axis.size - 1))
    return start * (axis.size - 1) + x * (end - start) * (axis.size - 1) / (axis.count - 1)


def _half_pixel(axis: Axis, x: Floats) -> Floats:
    return (x + x.dtype.type(0.5)) / x.dtype.type(axis.scale) - x.dtype.type(0.5)


def _half_pixel_symmetric(axis: Axis, x: Floats) -> Floats:
    offset = axis.size / 2 * (1 - axis.count / (axis.scale * axis.size))
    return offset + _half_pixel(axis, x)


COORDINATES: dict[str, Coordinates] = {
    "align_corners": _align_corners,
    "asymmetric": lambda axis, x: x / x.dtype.type(axis.scale),
    "half_pixel": _half_pixel,
    "half_pixel_symmetric": _half_pixel_symmetric,
    "pytorch_half_pixel": lambda axis, x: _half_pixel(axis, x) if axis.count > 1 else np.zeros_like(x),
    "tf_crop_and_resize": _crop,
    "tf_half_pixel_for_nn": lambda axis, x: _half_pixel(axis, x) + x.dtype.type(0.5),
}

ROUNDINGS: dict[str, Callable[[Floats], Floats]] = {
    "floor": np.floor,
    "ceil": np.ceil,
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
}


def _triangle(x: Floats, _: float) -> Floats:
    return np.clip(1 - np.abs(x), 0, 1)


def _keys_cubic(x: Floats, a: float) -> Floats:
    x = np.abs(x)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


KERNELS: dict[str, tuple[int, Callable[[Floats, float], Floats]]] = {"linear": (1, _triangle), "cubic": (2, _keys_cubic)}


@lru_cache(maxsize=1024)
def find_nearest(axis: Axis, rule: Rule, device: torch.device) -> Tensor:
    """Return for each output element the input element it copies.

    In float32, as the deployed runtime computes it: the rounding falls elsewhere otherwise.
    """
    x = COORDINATES[rule.coordinates](axis, np.arange(axis.count, dtype=np.float32))
    chosen = np.clip(ROUNDINGS[rule.rounding](x), 0, axis.size - 1)
    return torch.from_numpy(chosen.astype(np.int64)).to(device)


@lru_cache(maxsize=1024)
def find_taps(axis: Axis, rule: Rule, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the input elements [count, taps] that each output element mixes, and their weights [count, taps]."""
    reach, kernel = KERNELS[rule.mode]
    x = COORDINATES[rule.coordinates](axis, np.arange(axis.count, dtype=np.float64))
    squeeze = min(axis.scale, 1.0) if rule.antialias else 1.0
    start = math.floor(-reach / squeeze) + 1
    left = np.ceil(x) - 1
    places = left[:, None] + np.arange(start, 2 - start)[None, :]
    weights = kernel((places - x[:, None]) * squeeze, rule.cubic_a)
    if rule.exclude_outside:
        weights = np.where((places < 0) | (places >= axis.size), 0.0, weights)
    if rule.exclude_outside or rule.antialias:
        weights = weights / weights.sum(1, keepdims=True)
    indices = np.clip(places, 0, axis.size - 1).astype(np.int64)
    return torch.from_numpy(indices).to(device), torch.from_numpy(weights).to(device, dtype)


@lru_cache(maxsize=1024)
def find_outside(axis: Axis, rule: Rule, device: torch.device) -> Tensor | None:
    """Return which output elements of a crop lie outside the input, or None when none does."""
    if rule.coordinates != "tf_crop_and_resize":
        return None
    x = _crop(axis, np.arange(axis.count, dtype=np.float64))
    outside = (x < 0) | (x > axis.size - 1)
    return torch.from_numpy(outside).to(device) if outside.any() else None
