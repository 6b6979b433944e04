"""Corruption sets S(p, epsilon, n) and the first-order closed form on them; method sections 1, 2 and 4."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

CHUNK = 2**20
"""Entries that are worked on at once: what is computed on the way takes little beside a long vector."""
LONG = 2**22
"""Corruptions with more entries are not held in memory beside their gradient: each part of them is computed where it is read."""
BITS = {torch.float32: torch.int32, torch.float64: torch.int64}
BEYOND_FLOAT32 = 2**29 - 1
"""The bits of a float64's mantissa that a float32 has no place for."""


class Corruption(Protocol):
    """A corruption [k], held or computed where it is read: a tensor will do."""

    def numel(self) -> int:
        """Return k."""

    def __getitem__(self, place: slice, /) -> Tensor:
        """Return a stretch of it."""


def list_stretches(size: int) -> Iterator[slice]:
    """Yield the places of consecutive stretches of a vector."""
    return (slice(start, min(start + CHUNK, size)) for start in range(0, size, CHUNK))


@dataclass(frozen=True)
class CorruptionSet:
    r"""S(p, epsilon, n) = {a : \|a / s\|_p <= epsilon, \|a\|_0 <= n}.

    max_corrupted: n; None means every weight of the scope. scale: what s is: absolute (1), elementwise
    (|w|), tensor (a ball for each tensor, epsilon times the tensor's p-norm), or a rounding (half of the format's step; then
    p = inf and epsilon = 1).
    """

    norm: float
    epsilon: float
    max_corrupted: int | None = None
    scale: str = "absolute"

    def count_corrupted(self, weights: int) -> int:
        """Return how many of `weights` weights a worst case in the set corrupts: one for p = 1, else min(n, k).

        >>> CorruptionSet(2.0, 0.1, 5).count_corrupted(3), CorruptionSet(1.0, 0.1).count_corrupted(3)
        (3, 1)
        """
        if self.norm == 1:
            return 1
        return weights if self.max_corrupted is None else min(self.max_corrupted, weights)


class ClosedForm(NamedTuple):
    """A corruption, in the gradient's dtype but float32 at least, and its predicted loss change <a, g>."""

    corruption: Corruption
    value: float


class Cut(NamedTuple):
    """Which entries of a vector are its largest: those above the threshold, and of those that equal it the ones up to `last`."""

    threshold: Tensor
    last: int

    def keep(self, piece: Tensor, start: int) -> Tensor:
        """Return a stretch that begins at `start` without what is not among the largest."""
        magnitude = piece.abs()
        chosen = magnitude > self.threshold
        ties = max(0, self.last + 1 - start)
        chosen[:ties] |= magnitude[:ties] == self.threshold
        return torch.where(chosen, piece, 0)


def find_cut(vector: Tensor, count: int) -> Cut | None:
    """Return what tells the `count` entries of largest magnitude from the others; None where all are kept.

    Equal magnitudes are kept in index order, so the answer does not depend on how `topk` breaks ties.
    """
    if count >= vector.numel():
        return None
    threshold, last = _find_threshold(vector, count), -1
    missing = count - sum(int((piece.abs() > threshold).sum()) for piece in vector.split(CHUNK))
    for place in list_stretches(vector.numel()):
        if missing <= 0:
            break
        ties = (vector[place].abs() == threshold).nonzero().flatten()[:missing]
        missing -= len(ties)
        last = place.start + int(ties[-1]) if len(ties) else last
    return Cut(threshold, last)


def keep_largest(vector: Tensor, count: int) -> Tensor:
    """Return top_n(vector): the `count` entries of largest magnitude, the others 0.

    >>> keep_largest(torch.tensor([1.0, -3.0, 3.0, 2.0]), 1)
    tensor([ 0., -3.,  0.,  0.])
    """
    return vector if count >= vector.numel() else _clear_rest(vector.clone(), count)


def _clear_rest(vector: Tensor, count: int) -> Tensor:
    """Set all but the largest entries of the vector to zero."""
    cut = find_cut(vector, count)
    for place in list_stretches(vector.numel() if cut else 0):
        vector[place] = cut.keep(vector[place], place.start) if cut else 0
    return vector


def _find_threshold(vector: Tensor, count: int) -> Tensor:
    """Return the `count`-th largest magnitude.

    Numbers that are not negative are ordered like their bits, so in long vectors it is found digit by digit, of sixteen bits, by
    counting: without a sort and without a copy.
    """
    if vector.numel() <= CHUNK or vector.dtype not in BITS:
        return vector.abs().topk(count, sorted=True).values[-1]
    pieces, missing = vector.split(CHUNK), count
    digits: int | None = None
    for shift in range(8 * vector.dtype.itemsize - 16, -16, -16):
        counts = torch.zeros(65536, dtype=torch.long, device=vector.device)
        for piece in pieces:
            counts += _count_digits(piece, digits, shift)
        counts = counts.flip(0)
        above = counts.cumsum(0)
        place = int(torch.searchsorted(above, missing))
        missing -= int(above[place] - counts[place])
        digits = (digits or 0) << 16 | 65535 - place
        if int(counts[place]) <= CHUNK:
            inside, filled = vector.new_empty(int(counts[place])), 0  # in one piece: many small ones would scatter the memory
            for piece in pieces:
                found = piece.abs()[_shift_bits(piece, shift) == digits]
                inside[filled : filled + len(found)] = found
                filled += len(found)
            return inside.topk(missing, sorted=True).values[-1]
    return torch.tensor(digits, dtype=BITS[vector.dtype], device=vector.device).view(vector.dtype)


def _shift_bits(piece: Tensor, shift: int) -> Tensor:
    return piece.abs().view(BITS[piece.dtype]) >> shift


def _count_digits(piece: Tensor, digits: int | None, shift: int) -> Tensor:
    """Return how many of the magnitudes that begin with `digits` have which sixteen bits after them, at `shift`."""
    bits = _shift_bits(piece, shift)
    return torch.bincount((bits if digits is None else bits[bits >> 16 == digits]) & 65535, minlength=65536)


def round_inwards(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Return numbers in float64 in a dtype, each rounded towards zero: no norm grows by it, so a corruption stays in its set."""
    if dtype == torch.float32:
        values = values.view(torch.int64).bitwise_and(~BEYOND_FLOAT32).view(torch.float64)
    return values.to(dtype)


def find_dtype(weights: torch.dtype) -> torch.dtype:
    """Return the type of the corruptions of such weights: their own, or float32 where they have 16 bits."""
    return weights if weights in BITS else torch.float32


@dataclass(frozen=True)
class Formula:
    """a = factor sgn(h) (|h| / largest)^power, h = top_n(g): the closed form, computed where it is read."""

    gradient: Tensor
    cut: Cut | None
    largest: float
    power: float
    factor: float = 1.0

    def numel(self) -> int:
        """Return k."""
        return self.gradient.numel()

    def __getitem__(self, place: slice, /) -> Tensor:
        """Return a stretch of the corruption."""
        start, stop, _ = place.indices(self.numel())
        found = self.gradient.new_empty(stop - start, dtype=find_dtype(self.gradient.dtype))
        for part in list_stretches(stop - start):
            found[part] = self._compute(slice(start + part.start, start + part.stop))
        return found

    def sum_powers(self) -> float:
        r"""Return the sum of (|h| / largest)^q, q = power + 1: 1/p + 1/q = 1."""
        pieces = (self._read(place).abs() / self.largest for place in list_stretches(self.numel()))
        return math.fsum(float(piece.pow_(self.power + 1).sum()) for piece in pieces)

    def _read(self, place: slice) -> Tensor:
        piece = self.gradient[place]
        return (self.cut.keep(piece, place.start) if self.cut else piece).double()

    def _compute(self, place: slice) -> Tensor:
        h = self._read(place)
        # Dividing by the largest entry first keeps |h|^(1/(p-1)) from under- or overflowing for p near 1.
        shape = h / self.largest if self.power == 1 else h.sign() * (h.abs() / self.largest).pow_(self.power)
        return round_inwards(shape.mul_(self.factor), find_dtype(self.gradient.dtype))


def compute_closed_form(gradient: Tensor, corruption_set: CorruptionSet) -> ClosedForm:
    r"""Return the a in S(p, epsilon, n) that maximises <a, g>, and the maximum.

    With h = top_n(g) and 1/p + 1/q = 1:  a = epsilon sgn(h) |h|^(1/(p-1)) / \||h|^(1/(p-1))\|_p  and
    <a, g> = epsilon \|h\|_q; p = inf gives epsilon sgn(h), p = 1 puts epsilon on the largest |g_i|. With x = |h| / max |h| both
    norms are powers of one sum, that of x^q.

    Kind: exact for the linear problem; as a loss change an estimate. Source: Sun et al. (AAAI 2021), section 3.

    Args:
        gradient: [k], any floating dtype; a long one must not change while its corruption is in use.
        corruption_set: S(p, epsilon, n).

    Returns:
        The corruption [k] and the maximum; zeros and 0.0 for a zero gradient.

    Raises:
        ValueError: the gradient is not finite.

    >>> a, value = compute_closed_form(torch.tensor([3.0, -4.0]), CorruptionSet(norm=2.0, epsilon=0.5))
    >>> [round(x, 6) for x in a[:].tolist()], value
    ([0.3, -0.4], 2.5)
    """
    largest = float(torch.linalg.vector_norm(gradient, math.inf))
    if not math.isfinite(largest):
        message = "the gradient is not finite"
        raise ValueError(message)
    if largest == 0:
        return ClosedForm(torch.zeros_like(gradient, dtype=find_dtype(gradient.dtype)), 0.0)
    p, epsilon = corruption_set.norm, corruption_set.epsilon
    cut = find_cut(gradient, corruption_set.count_corrupted(gradient.numel()))
    form = Formula(gradient, cut, largest, math.inf if p == 1 else 1 / (p - 1))
    total = form.sum_powers()
    form = replace(form, factor=epsilon * total ** (-1 / p))
    value = epsilon * largest * total ** (1 / (form.power + 1))
    return ClosedForm(form if form.numel() > LONG else form[:], value)


def add_corruptions(first: Corruption, second: Corruption) -> Tensor:
    """Return the sum as a new vector."""
    total = first[:0].new_empty(first.numel())
    for place in list_stretches(first.numel()):
        torch.add(first[place], second[place], out=total[place])
    return total


def is_same(first: Corruption, second: Corruption) -> bool:
    """Tell whether two corruptions of as many weights are equal."""
    return all(torch.equal(first[place], second[place]) for place in list_stretches(first.numel()))


def count_corrupted(corruption: Corruption) -> int:
    """Return how many weights a corruption changes."""
    return sum(int(corruption[place].count_nonzero()) for place in list_stretches(corruption.numel()))


def measure_norm(corruption: Corruption, p: float) -> float:
    """Return the p-norm, in float64."""
    # Numbers, not tensors: these would lie where the next stretch has to go, and scatter the memory.
    pieces = [float(torch.linalg.vector_norm(corruption[place].double(), p)) for place in list_stretches(corruption.numel())]
    return pieces[0] if len(pieces) == 1 else combine_norms(pieces, p)


def combine_norms(pieces: Sequence[float], p: float) -> float:
    """Return the p-norm of a vector from those of its parts."""
    return float(torch.linalg.vector_norm(torch.tensor(pieces, dtype=torch.float64), p))


def project_corruption(vector: Tensor, corruption_set: CorruptionSet) -> Tensor:
    """Return a point of S(p, epsilon, n) near `vector`: the n largest entries, then clipped (p = inf) or rescaled if outside.

    Returns:
        The corruption [k], in the memory of the vector. For p = inf and p = 2 it is the nearest point of the set, up to rounding
        towards zero; for other p it lies in the set.

    >>> project_corruption(torch.tensor([3.0, -4.0, 1.0]), CorruptionSet(norm=2.0, epsilon=0.5, max_corrupted=2)).tolist()
    [0.29999998211860657, -0.3999999761581421, 0.0]
    """
    p, epsilon = corruption_set.norm, corruption_set.epsilon
    kept = _clear_rest(vector, corruption_set.max_corrupted or vector.numel())
    if math.isinf(p):
        limit = float(round_inwards(torch.tensor(epsilon, dtype=torch.float64), vector.dtype))
        return kept.clamp_(-limit, limit)
    size = measure_norm(kept, p)
    for place in list_stretches(kept.numel() if size > epsilon else 0):
        kept[place] = round_inwards(kept[place].double() * (epsilon / size), kept.dtype)
    return kept
