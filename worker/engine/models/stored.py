"""Weights as the file stores them, bit by bit: fp16, bf16, fp32, fp64, and integers on a grid."""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from worker.engine.models.program import Grid, Storage

FLOATS: dict[torch.dtype, tuple[torch.dtype, int]] = {
    torch.float16: (torch.int16, 10),
    torch.bfloat16: (torch.int16, 7),
    torch.float32: (torch.int32, 23),
    torch.float64: (torch.int64, 52),
}
"""For each float, the integer of its width and the bits of its mantissa."""


@dataclass(frozen=True)
class Flip:
    """One flipped bit of one stored weight; `index` is flat, bit 0 is the least significant.

    kind: sign, exponent or mantissa of a float; sign or value of an integer. old, new: the weight before and after.
    """

    tensor: str
    index: int
    bit: int
    kind: str
    old: float
    new: float


@dataclass(frozen=True)
class Stored:
    """One weight tensor as the file stores it: the integers of its codes, or of the bits of its floats.

    dtype: the stored float's. wide: what its values are computed with, where that is another type.
    """

    codes: Tensor
    dtype: torch.dtype
    grid: Grid | None
    wide: torch.dtype | None = None

    @property
    def bits(self) -> int:
        """The width of one stored number."""
        return self.codes.dtype.itemsize * 8 if self.grid is None else self.grid.bits

    @property
    def values(self) -> Tensor:
        """The weights themselves."""
        return self.decode(self.codes)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the weights behind other codes of the same shape."""
        return codes.view(self.dtype).to(self.wide or self.dtype) if self.grid is None else self.grid.decode(codes)

    def name_kind(self, bit: int) -> str:
        """Return what the bit is part of."""
        if bit == self.bits - 1 and self.codes.dtype.is_signed:
            return "sign"
        if self.grid is not None:
            return "value"
        return "mantissa" if bit < FLOATS[self.dtype][1] else "exponent"

    def flip_everywhere(self, bit: int) -> Tensor:
        """Return the codes with this bit flipped in each."""
        return self.codes ^ (1 << bit if bit < self.bits - 1 or not self.codes.dtype.is_signed else -(1 << bit))

    def flip(self, name: str, index: int, bit: int) -> tuple["Stored", Flip]:
        """Return the tensor with one bit flipped, and what that did."""
        at = tuple(int(place) for place in np.unravel_index(index, self.codes.shape))
        single = replace(self, codes=self.codes[at], grid=self.grid and _take(self.grid, self.codes.shape, at))
        flipped = single.flip_everywhere(bit)
        codes = self.codes.clone()
        codes[at] = flipped
        old, new = float(single.values), float(single.decode(flipped))
        return replace(self, codes=codes), Flip(name, index, bit, self.name_kind(bit), old, new)


def _take(grid: Grid, shape: torch.Size, at: tuple[int, ...]) -> Grid:
    return Grid(grid.codes[at], grid.step.expand(shape)[at], grid.zero_point.expand(shape)[at], grid.narrow)


def read_stored(weights: Mapping[str, Tensor], grids: Mapping[str, Storage], names: Iterable[str]) -> dict[str, Stored]:
    """Return the named weights as they are stored: on their grid where they have one, else as floats of their own type."""
    return {name: _read(weights[name].detach(), grids.get(name)) for name in names}


def _read(weight: Tensor, storage: Storage | None) -> Stored:
    if isinstance(storage, Grid):
        grid = storage.map(lambda tensor: tensor.to(weight.device))
        return Stored(grid.codes, weight.dtype, grid)
    dtype = weight.dtype if storage is None else storage.dtype
    return Stored(weight.contiguous().to(dtype).view(FLOATS[dtype][0]), dtype, None, None if storage is None else weight.dtype)


def apply_flips(weights: Mapping[str, Tensor], grids: Mapping[str, Storage], flips: Sequence[Flip]) -> dict[str, Tensor]:
    """Return the tensors that the flips change. They replace the weights: no float added to w gives w with a bit flipped."""
    stored = read_stored(weights, grids, dict.fromkeys(flip.tensor for flip in flips))
    for flip in flips:
        stored[flip.tensor], _ = stored[flip.tensor].flip(flip.tensor, flip.index, flip.bit)
    return {name: entry.values for name, entry in stored.items()}


def count_flips(stored: Mapping[str, Stored], kinds: Container[str]) -> tuple[int, int]:
    """Return how many single flips of these kinds there are, and how many of them make NaN or Inf."""
    allowed = [(entry, bit) for entry in stored.values() for bit in range(entry.bits) if entry.name_kind(bit) in kinds]
    made = [(~entry.decode(entry.flip_everywhere(bit)).isfinite()).sum() for entry, bit in allowed if entry.grid is None]
    return sum(entry.codes.numel() for entry, _ in allowed), sum(int(number) for number in made)
