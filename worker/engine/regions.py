"""Regions: a corruption set in one scope, on its scale; method sections 2, 4 and 6."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from worker.engine.corruption import (
    ClosedForm,
    Corruption,
    CorruptionSet,
    compute_closed_form,
    count_corrupted,
    find_dtype,
    list_stretches,
    measure_norm,
    project_corruption,
    round_inwards,
)

CPU = torch.device("cpu")
SLACK = 1e-9
"""A corruption counts as inside when its norm is above epsilon by no more than this share: rounding of the norm."""


class Region(Protocol):
    """The corruptions [k] of a scope's weights that a set allows."""

    @property
    def movable(self) -> int:
        """How many weights can move at all: those whose scale is not zero."""

    @property
    def corrupted(self) -> int:
        """How many weights the linear maximiser corrupts."""

    def maximise(self, gradient: Tensor) -> ClosedForm:
        """Return the a of the region that maximises <a, g>, and the maximum. Kind: exact for the linear problem."""

    def step(self, gradient: Tensor, share: float) -> ClosedForm:
        """Return the linear maximiser over all movable weights in the region made `share` times as large, and the maximum."""

    def weigh(self, gradient: Tensor) -> Tensor:
        """Return |s g|, what each weight does to first order per unit of norm."""

    def project(self, vector: Tensor) -> Tensor:
        """Return a point of the region near `vector`, which is used up."""

    def draw(self, seed: int) -> Corruption:
        """Return the maximiser for a standard normal draw: exactly the norm and support size of the worst case."""

    def contains(self, corruption: Corruption) -> bool:
        """Tell whether the corruption lies in the region, up to SLACK."""


def draw_normal(weights: int, seed: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return a standard normal draw [k], made in float64 by the CPU's generator so that it is the same on every device."""
    generator, drawn = torch.Generator().manual_seed(seed), torch.empty(weights, dtype=dtype, device=device)
    for place in list_stretches(weights):
        drawn[place] = torch.randn(place.stop - place.start, generator=generator, dtype=torch.float64)
    return drawn


@dataclass(frozen=True)
class Ball:
    r"""{a : \|a / s\|_p <= epsilon, \|a\|_0 <= n}; `scale` is s [k] in float64, or None for s = 1.

    dtype: of the corruptions on a scale and of the random ones.
    """

    corruption_set: CorruptionSet
    weights: int
    scale: Tensor | None = None
    device: torch.device = CPU
    dtype: torch.dtype = torch.float64

    @cached_property
    def movable(self) -> int:
        """How many weights have a scale that is not zero."""
        return self.weights if self.scale is None else int((self.scale > 0).sum())

    @property
    def corrupted(self) -> int:
        """How many weights the linear maximiser corrupts."""
        return self.corruption_set.count_corrupted(self.movable) if self.movable else 0

    def maximise(self, gradient: Tensor) -> ClosedForm:
        """Return the linear maximiser and the maximum."""
        if self.scale is None:
            return compute_closed_form(gradient, self.corruption_set)
        scaled = compute_closed_form(gradient.double() * self.scale, self.corruption_set)
        return ClosedForm(round_inwards(scaled.corruption[:] * self.scale, self.dtype), scaled.value)

    def step(self, gradient: Tensor, share: float) -> ClosedForm:
        """Return the linear maximiser over all movable weights, `share` times as large, and the maximum."""
        larger = CorruptionSet(self.corruption_set.norm, share * self.corruption_set.epsilon)
        return replace(self, corruption_set=larger).maximise(gradient)

    def weigh(self, gradient: Tensor) -> Tensor:
        """Return |s g|."""
        return gradient.double().abs() if self.scale is None else gradient.double().abs() * self.scale

    def project(self, vector: Tensor) -> Tensor:
        """Keep the n largest on the scale, then clip or rescale what is outside."""
        if self.scale is None:
            return project_corruption(vector, self.corruption_set)
        return round_inwards(project_corruption(self._unscale(vector, self.scale), self.corruption_set) * self.scale, self.dtype)

    def draw(self, seed: int) -> Corruption:
        """Return the maximiser for a standard normal draw in place of the scaled gradient."""
        normal = draw_normal(self.weights, seed, self.device, self.dtype)
        if self.scale is None:
            return compute_closed_form(normal, self.corruption_set).corruption
        drawn = compute_closed_form(normal.double() * (self.scale > 0), self.corruption_set).corruption
        return round_inwards(drawn[:] * self.scale, self.dtype)

    def contains(self, corruption: Corruption) -> bool:
        """Tell whether the corruption lies inside."""
        relative = corruption
        if self.scale is not None:
            relative = self._unscale(corruption[:], self.scale)
            if bool(corruption[:][self.scale == 0].any()):
                return False
        inside = measure_norm(relative, self.corruption_set.norm) <= self.corruption_set.epsilon * (1 + SLACK)
        return inside and _has_support(corruption, self.corruption_set)

    @staticmethod
    def _unscale(vector: Tensor, scale: Tensor) -> Tensor:
        return torch.where(scale > 0, vector / scale, 0.0)


@dataclass(frozen=True)
class TensorBalls:
    r"""{a : \|a_t\|_p <= epsilon_t for every tensor t, \|a\|_0 <= n over all of them}.

    sizes, radii: the number of weights and epsilon_t of each tensor; `corruption_set` gives p and n.
    """

    corruption_set: CorruptionSet
    sizes: tuple[int, ...]
    radii: tuple[float, ...]
    device: torch.device = CPU
    dtype: torch.dtype = torch.float64

    @property
    def movable(self) -> int:
        """How many weights have a scale that is not zero."""
        return sum(size for size, radius in zip(self.sizes, self.radii, strict=True) if radius > 0)

    @property
    def corrupted(self) -> int:
        """How many weights the linear maximiser corrupts."""
        most = sum(radius > 0 for radius in self.radii) if self.corruption_set.norm == 1 else self.movable
        return min(most, self.corruption_set.max_corrupted or most)

    def maximise(self, gradient: Tensor) -> ClosedForm:
        """Return the linear maximiser and the maximum."""
        pieces = zip(gradient.split(self.sizes), self.share_out(gradient), strict=True)
        forms = [self._maximise_piece(piece, t, count) for t, (piece, count) in enumerate(pieces)]
        return ClosedForm(torch.cat([form.corruption[:] for form in forms]), math.fsum(form.value for form in forms))

    def share_out(self, gradient: Tensor) -> list[int]:
        """Return how many weights of each tensor the linear maximiser corrupts: n given out by marginal gain, which is exact.

        The gain of an m-th weight in tensor t, epsilon_t (||top_m||_q - ||top_(m-1)||_q), falls with m, so greedy is optimal.
        """
        limit = self.corruption_set.max_corrupted
        if limit is None or limit >= self.movable:
            return [size if radius > 0 else 0 for size, radius in zip(self.sizes, self.radii, strict=True)]
        gains = [
            radius * _compute_gains(piece.double(), self.corruption_set.norm, limit)
            for piece, radius in zip(gradient.split(self.sizes), self.radii, strict=True)
        ]
        owner = torch.cat([torch.full_like(gain, t, dtype=torch.long) for t, gain in enumerate(gains)])
        best = torch.cat(gains).sort(descending=True, stable=True).indices[:limit]
        return torch.bincount(owner[best], minlength=len(self.sizes)).tolist()

    def step(self, gradient: Tensor, share: float) -> ClosedForm:
        """Return the linear maximiser over all movable weights, `share` times as large, and the maximum."""
        larger = CorruptionSet(self.corruption_set.norm, share * self.corruption_set.epsilon)
        return replace(self, corruption_set=larger, radii=tuple(share * radius for radius in self.radii)).maximise(gradient)

    def weigh(self, gradient: Tensor) -> Tensor:
        """Return |g| times the radius of its tensor."""
        return gradient.double().abs() * self._spread_radii()

    def _spread_radii(self) -> Tensor:
        radii = torch.tensor(self.radii, dtype=torch.float64, device=self.device)
        return radii.repeat_interleave(torch.tensor(self.sizes, device=self.device))

    def project(self, vector: Tensor) -> Tensor:
        """Keep the n largest on the scale, then clip or rescale what is outside."""
        radius = self._spread_radii()
        relative = torch.where(radius > 0, vector / radius, torch.zeros_like(vector))
        whole = CorruptionSet(math.inf, math.inf, self.corruption_set.max_corrupted)
        kept = torch.where(project_corruption(relative, whole) != 0, vector, torch.zeros_like(vector))
        pieces = kept.split(self.sizes)
        return torch.cat([project_corruption(piece, self._find_set(t, None)) for t, piece in enumerate(pieces)])

    def draw(self, seed: int) -> Corruption:
        """Return the maximiser for a standard normal draw in place of the scaled gradient."""
        return self.maximise(draw_normal(sum(self.sizes), seed, self.device, self.dtype)).corruption

    def contains(self, corruption: Corruption) -> bool:
        """Tell whether the corruption lies inside."""
        pieces = zip(corruption[:].split(self.sizes), self.radii, strict=True)
        inside = all(measure_norm(piece, self.corruption_set.norm) <= radius * (1 + SLACK) for piece, radius in pieces)
        return inside and _has_support(corruption, self.corruption_set)

    def _find_set(self, tensor: int, count: int | None) -> CorruptionSet:
        return CorruptionSet(self.corruption_set.norm, self.radii[tensor], count)

    def _maximise_piece(self, gradient: Tensor, tensor: int, count: int) -> ClosedForm:
        if count == 0 or self.radii[tensor] == 0:
            return ClosedForm(torch.zeros_like(gradient), 0.0)
        return compute_closed_form(gradient, self._find_set(tensor, count))


def _has_support(corruption: Corruption, corruption_set: CorruptionSet) -> bool:
    return corruption_set.max_corrupted is None or count_corrupted(corruption) <= corruption_set.max_corrupted


def _compute_gains(gradient: Tensor, norm: float, most: int) -> Tensor:
    """Return what each further weight adds to ||top_m(g)||_q, for m = 1 ... min(most, k)."""
    top = gradient.abs().topk(min(most, gradient.numel()), sorted=True).values
    if norm == 1 or top[0] == 0:
        return torch.cat([top[:1], torch.zeros_like(top[1:])])
    q = 1.0 if math.isinf(norm) else norm / (norm - 1)
    reached = top[0] * (top / top[0]).pow(q).cumsum(0).pow(1 / q)
    return reached.diff(prepend=torch.zeros_like(reached[:1]))


def build_region(corruption_set: CorruptionSet, weights: Sequence[Tensor], channel_axes: Sequence[int | None]) -> Region:
    """Return the region of a set in a scope of these tensors. `channel_axes`: where each has its output channels, if known."""
    sizes, device, dtype = tuple(weight.numel() for weight in weights), weights[0].device, find_dtype(weights[0].dtype)
    if corruption_set.scale == "absolute":
        return Ball(corruption_set, sum(sizes), None, device, dtype)
    if corruption_set.scale == "tensor":
        norms = [measure_norm(weight.detach().reshape(-1), corruption_set.norm) for weight in weights]
        return TensorBalls(corruption_set, sizes, tuple(corruption_set.epsilon * norm for norm in norms), device, dtype)
    if corruption_set.scale == "elementwise":
        scales = [weight.detach().double().abs() for weight in weights]
    else:
        scales = [
            compute_half_steps(weight, corruption_set.scale, axis) for weight, axis in zip(weights, channel_axes, strict=True)
        ]
    return Ball(corruption_set, sum(sizes), torch.cat([scale.reshape(-1) for scale in scales]), device, dtype)


FLOAT_GRIDS = {"rounding_fp16": (10, -14), "rounding_bf16": (7, -126)}
"""Mantissa bits and smallest normal exponent of the half-precision formats (IEEE 754 binary16, bfloat16)."""


def compute_half_steps(weight: Tensor, scale: str, channel_axis: int | None) -> Tensor:
    """Return half of the quantisation step at every weight, shaped like it, in float64.

    int8: symmetric, max|w| / 127 per tensor or per output channel. fp16, bf16: the spacing at |w|.
    """
    magnitude = weight.detach().double().abs()
    if scale in FLOAT_GRIDS:
        mantissa, smallest = FLOAT_GRIDS[scale]
        exponent = torch.where(magnitude > 0, torch.frexp(magnitude).exponent.double() - 1, smallest)
        return torch.exp2(exponent.clamp(min=smallest) - mantissa - 1)
    if scale == "rounding_int8_per_channel" and channel_axis is not None and weight.ndim > 1:
        others = [axis for axis in range(weight.ndim) if axis != channel_axis % weight.ndim]
        return (magnitude.amax(others, keepdim=True) / 254).expand_as(magnitude)
    return (magnitude.max() / 254).expand_as(magnitude)
