"""Corruption sets S(p, epsilon, n) and the first-order closed form on them; method sections 1, 2 and 4."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 2**20
"""Entries that are worked on at once: what is computed on the way takes little beside a long vector."""
BITS = {torch.float32: torch.int32, torch.float64: torch.int64}


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
    """A corruption (float64, [k]) and its predicted loss change <a, g>."""

    corruption: Tensor
    value: float


def keep_largest(vector: Tensor, count: int) -> Tensor:
    """Return top_n(vector): the `count` entries of largest magnitude, the others 0.

    Equal magnitudes are kept in index order, so the answer does not depend on how `topk` breaks ties.

    >>> keep_largest(torch.tensor([1.0, -3.0, 3.0, 2.0]), 1)
    tensor([ 0., -3.,  0.,  0.])
    """
    if count >= vector.numel():
        return vector
    threshold = _find_threshold(vector, count)
    kept = torch.zeros_like(vector)
    missing = count - sum(int((piece.abs() > threshold).sum()) for piece in vector.split(CHUNK))
    for piece, place in zip(vector.split(CHUNK), kept.split(CHUNK), strict=True):
        magnitude = piece.abs()
        chosen = magnitude > threshold
        if missing > 0:
            ties = (magnitude == threshold).nonzero().flatten()[:missing]
            chosen[ties] = True
            missing -= len(ties)
        place.copy_(torch.where(chosen, piece, 0))
    return kept


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


def compute_closed_form(gradient: Tensor, corruption_set: CorruptionSet) -> ClosedForm:
    r"""Return the a in S(p, epsilon, n) that maximises <a, g>, and the maximum.

    With h = top_n(g) and 1/p + 1/q = 1:  a = epsilon sgn(h) |h|^(1/(p-1)) / \||h|^(1/(p-1))\|_p  and
    <a, g> = epsilon \|h\|_q; p = inf gives epsilon sgn(h), p = 1 puts epsilon on the largest |g_i|.

    Kind: exact for the linear problem; as a loss change an estimate. Source: Sun et al. (AAAI 2021), section 3.

    Args:
        gradient: [k], any floating dtype.
        corruption_set: S(p, epsilon, n).

    Returns:
        The corruption [k] in float64 and the maximum; zeros and 0.0 for a zero gradient.

    Raises:
        ValueError: the gradient is not finite.

    >>> a, value = compute_closed_form(torch.tensor([3.0, -4.0]), CorruptionSet(norm=2.0, epsilon=0.5))
    >>> [round(x, 6) for x in a.tolist()], value
    ([0.3, -0.4], 2.5)
    """
    largest = float(torch.linalg.vector_norm(gradient, math.inf))
    if not math.isfinite(largest):
        message = "the gradient is not finite"
        raise ValueError(message)
    corruption = torch.zeros(gradient.numel(), dtype=torch.float64, device=gradient.device)
    if largest == 0:
        return ClosedForm(corruption, 0.0)
    p, epsilon = corruption_set.norm, corruption_set.epsilon
    h = keep_largest(gradient, corruption_set.count_corrupted(gradient.numel()))
    pieces = list(zip(h.split(CHUNK), corruption.split(CHUNK), strict=True))
    if math.isinf(p) or p == 1:
        for piece, place in pieces:
            torch.mul(piece.double().sign(), epsilon, out=place)
        total = largest if p == 1 else math.fsum(float(piece.abs().sum(dtype=torch.float64)) for piece, _ in pieces)
        return ClosedForm(corruption, epsilon * total)
    # Dividing by the largest entry first keeps |h|^(1/(p-1)) from under- or overflowing for p near 1.
    for piece, place in pieces:
        torch.pow(piece.double().abs() / largest, 1 / (p - 1), out=place)
    norm = torch.linalg.vector_norm(corruption, p)
    for piece, place in pieces:
        torch.div(epsilon * piece.double().sign() * place, norm, out=place)
    value = math.fsum(float(torch.dot(place, piece.double())) for piece, place in pieces)
    return ClosedForm(corruption, value)


def project_corruption(vector: Tensor, corruption_set: CorruptionSet) -> Tensor:
    """Return a point of S(p, epsilon, n) near `vector`: the n largest entries, then clipped (p = inf) or rescaled if outside.

    Returns:
        The corruption [k]. For p = inf and p = 2 it is the nearest point of the set; for other p it lies in the set.

    >>> project_corruption(torch.tensor([3.0, -4.0, 1.0]), CorruptionSet(norm=2.0, epsilon=0.5, max_corrupted=2)).tolist()
    [0.30000001192092896, -0.4000000059604645, 0.0]
    """
    count = vector.numel() if corruption_set.max_corrupted is None else corruption_set.max_corrupted
    kept = keep_largest(vector, count)
    if math.isinf(corruption_set.norm):
        return kept.clamp(-corruption_set.epsilon, corruption_set.epsilon)
    size = torch.linalg.vector_norm(kept, corruption_set.norm)
    return kept * (corruption_set.epsilon / size) if size > corruption_set.epsilon else kept
