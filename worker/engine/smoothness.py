"""Curvature of the loss by Lanczos, the second-order corruption, and the error of the estimate; method sections 3 and 5."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import linalg, optimize
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from worker.engine.corruption import ClosedForm, CorruptionSet
from worker.engine.models.split import SplitProgram
from worker.engine.passes import Passes
from worker.engine.scopes import Layout
from worker.engine.session import Evaluator, Session

HessianProduct = Callable[[Tensor], Tensor]
LANCZOS_STEPS = 20
PRODUCT_PASSES = Passes(1, 2)
"""A product with the Hessian (two of each where it is a difference of gradients)."""
CONVERGED = 1e-3
"""A Ritz value whose residual is below this share of the largest one counts as converged."""
BREAKDOWN = 1e-12
"""Below this share of the largest entry of T the next Lanczos vector is rounding: the Krylov space is complete."""


@dataclass(frozen=True)
class Lanczos:
    """H Q = Q T + residual e_m^T: an orthonormal basis Q [k, m] and the tridiagonal T, float64. products: of H, so far."""

    basis: Tensor
    diagonal: NDArray[np.float64]
    off_diagonal: NDArray[np.float64]
    residual: float
    products: int

    def decompose(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the Ritz values, ascending, and the eigenvectors [m, m] of T."""
        values, vectors = linalg.eigh_tridiagonal(self.diagonal, self.off_diagonal)
        return np.asarray(values, np.float64), np.asarray(vectors, np.float64)


@dataclass(frozen=True)
class Smoothness:
    """Curvature at one point. largest: beta, the largest |Ritz value|; highest, lowest: signed. Kind: estimate, from below."""

    largest: float
    highest: float
    lowest: float
    converged: bool
    hessian_products: int
    kind: str = "estimate"


@dataclass(frozen=True)
class ErrorBound:
    """Method section 5. ratio_convex, ratio_smooth: upper limits of Delta_max / Delta L(one step); None where nothing follows."""

    c: float | None
    ratio_convex: float | None
    ratio_smooth: float | None
    regime: str
    kind: str = "estimate"


def run_lanczos(hvp: HessianProduct, start: Tensor, iterations: int = 20) -> Lanczos:
    """Return at most `iterations` Lanczos steps from `start`, fully reorthogonalised in float64.

    Raises:
        ValueError: the start is zero, or a product with H is not finite.
    """
    norm = torch.linalg.vector_norm(start.double())
    if not torch.isfinite(norm) or norm == 0:
        message = "Lanczos needs a finite start that is not zero"
        raise ValueError(message)
    basis, diagonal, off_diagonal = [start.double() / norm], list[float](), list[float]()
    while True:
        image = hvp(basis[-1]).double()
        diagonal.append(float(image @ basis[-1]))
        if not math.isfinite(diagonal[-1]):
            message = "a product with the Hessian is not finite"
            raise ValueError(message)
        matrix = torch.stack(basis, 1)
        for _ in range(2):  # once is not enough where the new vector nearly lies in the space already
            image = image - matrix @ (matrix.T @ image)
        residual = float(torch.linalg.vector_norm(image))
        if residual <= BREAKDOWN * max(map(abs, (*diagonal, *off_diagonal))):
            residual = 0.0
        if residual == 0.0 or len(basis) >= min(iterations, start.numel()):
            return Lanczos(matrix, np.array(diagonal), np.array(off_diagonal), residual, len(diagonal))
        off_diagonal.append(residual)
        basis.append(image / residual)


def draw_start(gradient: Tensor, seed: int) -> Tensor:
    """Return the gradient, or where it is zero a standard normal vector, drawn on the CPU so that it is one on all devices."""
    if gradient.any():
        return gradient
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(gradient.shape, generator=generator, dtype=torch.float64).to(gradient.device)


def estimate_smoothness(lanczos: Lanczos) -> Smoothness:
    r"""Return beta = max |eigenvalue of H| as far as the Krylov space shows it.

    Kind: estimate; never above the true value, up to rounding. Source: Lanczos; residual of a Ritz pair |r_m s_mi|.
    """
    values, vectors = lanczos.decompose()
    at = int(np.abs(values).argmax())
    largest = float(abs(values[at]))
    converged = lanczos.residual * abs(float(vectors[-1, at])) <= CONVERGED * largest
    return Smoothness(largest, float(values[-1]), float(values[0]), converged, lanczos.products)


def solve_ball(lanczos: Lanczos, gradient: Tensor, epsilon: float) -> ClosedForm:
    r"""Return the a in span(Q), \|a\|_2 <= epsilon, that maximises a^T g + a^T H a / 2, and the maximum.

    With T = S diag(theta) S^T and c = S^T Q^T g:  y_i = c_i / (lambda - theta_i), lambda >= max(theta_m, 0), \|y\| = epsilon
    or lambda = 0; where c has nothing along theta_m and y falls short (the hard case), theta_m's vector fills it up.
    Kind: exact for the quadratic in span(Q); as a loss change an estimate. Source: method section 3, second order.
    """
    theta, vectors = lanczos.decompose()
    c = vectors.T @ (lanczos.basis.T @ gradient.double()).cpu().numpy()
    floor = max(float(theta[-1]), 0.0)
    scale = max(float(np.abs(theta).max()), float(np.linalg.norm(c)) / epsilon, 1e-300)
    c[np.abs(c) <= 1e-14 * float(np.linalg.norm(c))] = 0.0

    def solve(shift: float) -> NDArray[np.float64]:
        gap = floor + shift - theta
        return np.asarray(np.divide(c, gap, out=np.zeros_like(c), where=(c != 0) & (gap > 0)))

    low, high = 1e-15 * scale, float(np.linalg.norm(c)) / epsilon + 1e-14 * scale
    if np.linalg.norm(solve(low)) > epsilon:
        shift = optimize.brentq(
            lambda s: 1 / epsilon - 1 / np.linalg.norm(solve(s)), low, 2 * high, xtol=1e-18 * scale, rtol=1e-14
        )
        y = solve(float(shift))
        y *= epsilon / np.linalg.norm(y)
    else:
        y = solve(0.0)
        if theta[-1] > 0:
            y[-1] = math.copysign(math.sqrt(max(0.0, epsilon**2 - float(y[:-1] @ y[:-1]))), c[-1])
    corruption = lanczos.basis @ torch.from_numpy(vectors @ y).to(lanczos.basis.device)
    return ClosedForm(corruption, float(c @ y + (theta * y) @ y / 2))


def make_hessian_product(session: Session, names: Sequence[str], corruption: Tensor) -> HessianProduct:
    r"""Return v -> H v, H the Hessian of the mean loss over all data at w + corruption, for the weights in `names`.

    Twice backward, attention by its plain formula. Where an operator has no second derivative: central differences of
    gradients in float64, (2^-52)^(1/3) max(\|w + a\|_2, 1) apart on either side. The first product finds out which.
    """
    twice = _make_second_derivative(session, names, corruption)
    chosen: list[HessianProduct] = []

    def multiply(vector: Tensor) -> Tensor:
        if not chosen:
            try:
                product = twice(vector)
            except RuntimeError as error:
                if "not implemented" not in str(error):
                    raise
                chosen.append(_make_differences(session, names, corruption))
            else:
                chosen.append(twice)
                return product
        return chosen[0](vector)

    return multiply


def _make_second_derivative(session: Session, names: Sequence[str], corruption: Tensor) -> HessianProduct:
    split, layout = SplitProgram(session.clean, frozenset(names)), Layout(session.program.weights, names)

    def multiply(vector: Tensor) -> Tensor:
        total, pieces = torch.zeros_like(vector, dtype=torch.float64), layout.split(vector)
        for index, (inputs, target) in enumerate(session.batches()):
            leaves = {name: value.requires_grad_() for name, value in layout.apply(corruption).items()}
            output = session.objective.select_output(split.run_corrupted(split.run_clean(index, inputs), leaves))
            loss = session.objective.compute_losses(output, target).sum() / session.labels_counted
            if not loss.requires_grad:  # no weight of the scope has a path to it: H = 0
                continue
            first: Sequence[Tensor | None] = torch.autograd.grad(loss, [*leaves.values()], create_graph=True, allow_unused=True)
            given = {name: g for name, g in zip(leaves, first, strict=True) if g is not None}
            slope = sum(((g.flatten() * pieces[name].to(g)).sum() for name, g in given.items()), start=loss * 0)
            slope.backward()
            total += layout.gather(leaves)
        return total

    math = sdpa_kernel(SDPBackend.MATH)(multiply)
    return lambda vector: session.run(lambda: math(vector))


def _make_differences(session: Session, names: Sequence[str], corruption: Tensor) -> HessianProduct:
    evaluator = Evaluator(session.cast(torch.float64), names)
    point = evaluator.layout.flatten(evaluator.session.program.weights) + corruption
    length = 2 ** (-52 / 3) * max(float(torch.linalg.vector_norm(point)), 1.0)

    def multiply(vector: Tensor) -> Tensor:
        size = float(torch.linalg.vector_norm(vector.double()))
        step = vector.double() * (length / size)
        (_, ahead), (_, behind) = evaluator.measure_with_gradient([corruption + step, corruption - step])
        return (ahead.double() - behind.double()) * (size / (2 * length))

    return multiply


def compute_error_bound(beta: float, corruption_set: CorruptionSet, weights: int, dual_norm: float) -> ErrorBound:
    r"""Return how far the one-step corruption can be from the best in S, for a beta-smooth loss.

    c = beta epsilon n^(2 max(0, 1/2 - 1/p)) / (2 \|h\|_q), h = top_n(g). Kind: estimate, since beta is one.
    Source: Sun et al., Theorem 2, with its constant; method section 5. dual_norm: \|h\|_q.

    >>> compute_error_bound(2.0, CorruptionSet(2.0, 0.1), 4, 0.5).ratio_convex
    1.2
    """
    if dual_norm <= 0:
        return ErrorBound(None, None, None, "the gradient is zero, so the estimate says nothing and nothing bounds its error")
    power = 2 * max(0.0, 0.5 - 1 / corruption_set.norm)
    c = beta * corruption_set.epsilon * corruption_set.count_corrupted(weights) ** power / (2 * dual_norm)
    convex = f"for a convex loss no corruption in the set does more than {1 + c:.3g} times the damage of the one-step one"
    if c < 1:
        smooth = (1 + c) / (1 - c)
        return ErrorBound(c, 1 + c, smooth, f"slope dominates: {convex}, and without convexity than {smooth:.3g} times")
    return ErrorBound(c, 1 + c, None, f"curvature dominates: {convex}; without convexity nothing follows at this epsilon")


def count_most_lanczos_passes(weights: int, steps: int = LANCZOS_STEPS) -> Passes:
    """Return what run_lanczos spends at most on a space of `weights` dimensions.

    >>> count_most_lanczos_passes(10_000)
    Passes(forward=20, backward=40)
    """
    return PRODUCT_PASSES * min(steps, weights)
