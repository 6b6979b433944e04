"""Corruption sets S(p, epsilon, n) and the first-order closed form on them; method sections 1, 2 and 4."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


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
    magnitude = vector.abs()
    threshold = magnitude.topk(count, sorted=True).values[-1]
    kept = magnitude > threshold
    ties = (magnitude == threshold).nonzero().flatten()
    kept[ties[: count - int(kept.sum())]] = True
    return torch.where(kept, vector, torch.zeros_like(vector))


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
    g = gradient.double()
    largest = g.abs().max()
    if not torch.isfinite(largest):
        message = "the gradient is not finite"
        raise ValueError(message)
    if largest == 0:
        return ClosedForm(torch.zeros_like(g), 0.0)
    p, epsilon = corruption_set.norm, corruption_set.epsilon
    h = keep_largest(g, corruption_set.count_corrupted(g.numel()))
    if math.isinf(p):
        return ClosedForm(epsilon * h.sign(), epsilon * h.abs().sum().item())
    if p == 1:
        return ClosedForm(epsilon * h.sign(), epsilon * largest.item())
    # Dividing by the largest entry first keeps |h|^(1/(p-1)) from under- or overflowing for p near 1.
    shape = (h.abs() / largest) ** (1 / (p - 1))
    corruption = epsilon * h.sign() * shape / torch.linalg.vector_norm(shape, p)
    return ClosedForm(corruption, torch.dot(corruption, g).item())


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
