"""Second, dumber implementations: what the engine's numbers are compared with. Clear and slow, in float64."""

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor


def dual_norm(vector: Tensor, p: float) -> float:
    """Return the q-norm of `vector`, 1/p + 1/q = 1, by its definition."""
    entries = [abs(x) for x in vector.tolist()]
    if p == 1:
        return max(entries, default=0.0)
    if math.isinf(p):
        return math.fsum(entries)
    q = p / (p - 1)
    return float(math.fsum(x**q for x in entries) ** (1 / q))


def best_linear_value(gradient: Tensor, p: float, epsilon: float, n: int) -> float:
    """Return max <a, g> over S(p, epsilon, n) by trying every support of n entries (Hoelder on each)."""
    k = gradient.numel()
    return max(epsilon * dual_norm(gradient[list(support)], p) for support in itertools.combinations(range(k), min(n, k)))


def p_norm(vector: Tensor, p: float) -> float:
    """Return the p-norm by its definition."""
    entries = [abs(x) for x in vector.tolist()]
    return max(entries) if math.isinf(p) else float(math.fsum(x**p for x in entries) ** (1 / p))


def sample_feasible(k: int, p: float, epsilon: float, n: int, count: int, seed: int) -> Iterator[Tensor]:
    """Yield corruptions of the set, on its sphere, with random supports."""
    generator = np.random.default_rng(seed)
    for _ in range(count):
        a = np.zeros(k)
        support = generator.choice(k, size=min(n, k), replace=False)
        a[support] = generator.standard_normal(len(support)) * np.exp(generator.standard_normal(len(support)))
        yield torch.from_numpy(a * epsilon / p_norm(torch.from_numpy(a), p))


def mean_cross_entropy(logits: Tensor, labels: Tensor, ignore_index: int = -100) -> float:
    """Return the mean negative log-likelihood per counted label, label by label."""
    rows, classes = logits.double().reshape(-1, logits.shape[-1]), labels.reshape(-1)
    losses = [
        math.log(math.fsum(math.exp(z - max(row)) for z in row)) + max(row) - row[label]
        for row, label in zip(rows.tolist(), classes.tolist(), strict=True)
        if label != ignore_index
    ]
    return math.fsum(losses) / len(losses)


def hessian_trace(loss: Callable[[Tensor], Tensor], point: Tensor) -> float:
    """Return tr(H) of a scalar function by one second derivative per coordinate."""
    return float(torch.autograd.functional.hessian(loss, point).diagonal().sum())
