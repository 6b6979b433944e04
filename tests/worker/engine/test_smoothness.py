"""Lanczos, the second-order corruption and the error bound, against dense linear algebra and brute force."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import optimize
from torch import Tensor
from torch.nn import functional

from tests.oracles import best_linear_value, dual_norm
from tests.worker.engine.programs import build_mlp, build_program, build_session, make_step
from worker.engine.corruption import CorruptionSet, compute_closed_form, keep_largest
from worker.engine.data.dataset import Dataset
from worker.engine.objective import Objective
from worker.engine.session import Session
from worker.engine.smoothness import (
    compute_error_bound,
    draw_start,
    estimate_smoothness,
    make_hessian_product,
    run_lanczos,
    solve_ball,
)

Array = NDArray[np.float64]


def random_symmetric(k: int, seed: int, eigenvalues: list[float] | None = None) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(k, k, generator=generator, dtype=torch.float64))[0]
    values = torch.tensor(eigenvalues, dtype=torch.float64) if eigenvalues else torch.randn(k, generator=generator).double()
    return torch.as_tensor((basis * values) @ basis.T)


def random_vector(k: int, seed: int) -> Tensor:
    return torch.randn(k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("seed", range(4))
def test_complete_lanczos_has_the_eigenvalues_of_the_matrix(seed: int) -> None:
    matrix = random_symmetric(9, seed)
    lanczos = run_lanczos(lambda v: matrix @ v, random_vector(9, seed + 100), 20)
    truth = torch.linalg.eigvalsh(matrix)
    torch.testing.assert_close(torch.from_numpy(lanczos.decompose()[0]), truth, rtol=0, atol=1e-10)
    torch.testing.assert_close(lanczos.basis.T @ lanczos.basis, torch.eye(9, dtype=torch.float64), rtol=0, atol=1e-12)
    found = estimate_smoothness(lanczos)
    assert found.largest == pytest.approx(float(truth.abs().max()), rel=1e-10)
    assert (found.highest, found.lowest) == pytest.approx((float(truth[-1]), float(truth[0])), rel=1e-9)
    assert found.converged
    assert found.hessian_products == 9


def test_short_lanczos_never_exceeds_the_largest_eigenvalue_and_says_when_it_has_not_converged() -> None:
    flat = random_symmetric(60, 1, [1 + i / 60 for i in range(60)])
    short = estimate_smoothness(run_lanczos(lambda v: flat @ v, random_vector(60, 2), 4))
    assert not short.converged
    assert short.largest <= 1 + 59 / 60
    spiked = random_symmetric(60, 1, [*[0.01 * i / 60 for i in range(59)], -5.0])
    found = estimate_smoothness(run_lanczos(lambda v: spiked @ v, random_vector(60, 2), 8))
    assert found.converged
    assert found.largest == pytest.approx(5.0, rel=1e-6)
    assert found.lowest == pytest.approx(-5.0, rel=1e-6)


def test_an_invariant_start_ends_lanczos_early() -> None:
    matrix = torch.diag(torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64))
    lanczos = run_lanczos(lambda v: matrix @ v, torch.tensor([0.0, 2.0, 0.0]), 20)
    assert lanczos.products == 1
    assert lanczos.diagonal.tolist() == [2.0]


def test_a_zero_start_or_a_product_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="not zero"):
        run_lanczos(lambda v: v, torch.zeros(3))
    with pytest.raises(ValueError, match="not finite"):
        run_lanczos(lambda v: v * math.nan, torch.ones(3))
    assert draw_start(torch.zeros(5), 3).any()
    assert torch.equal(draw_start(torch.zeros(5), 3), draw_start(torch.zeros(5), 3))


def brute_force_ball(matrix: Tensor, gradient: Tensor, epsilon: float) -> float:
    """Many-start maximisation of the quadratic over the ball, coordinates a = epsilon z / max(1, |z|)."""
    h, g = matrix.numpy(), gradient.numpy()

    def negative(z: Array) -> float:
        a = epsilon * z / max(1.0, float(np.linalg.norm(z)))
        return -float(a @ g + a @ h @ a / 2)

    starts = np.random.default_rng(0).standard_normal((12, len(g)))
    return max(-float(optimize.minimize(negative, z, method="BFGS", options={"gtol": 1e-9}).fun) for z in starts)


@pytest.mark.parametrize("epsilon", [0.05, 1.0, 20.0])
@pytest.mark.parametrize("eigenvalues", [[1.0, -2.0, 0.5, 3.0], [-1.0, -2.0, -0.5, -3.0], [0.0, 0.0, -1.0, -1.0]])
def test_the_second_order_corruption_is_the_maximiser_over_the_ball(eigenvalues: list[float], epsilon: float) -> None:
    for seed in range(2):
        matrix, gradient = random_symmetric(4, seed, eigenvalues), random_vector(4, seed + 50)
        found, value = solve_ball(run_lanczos(lambda v, m=matrix: m @ v, gradient, 20), gradient, epsilon)  # type: ignore[misc]
        corruption = found[:]
        assert float(torch.linalg.vector_norm(corruption)) <= epsilon * (1 + 1e-12)
        measured = float(corruption @ gradient + corruption @ matrix @ corruption / 2)
        assert value == pytest.approx(measured, rel=1e-9, abs=1e-12)
        assert value == pytest.approx(brute_force_ball(matrix, gradient, epsilon), rel=1e-6)


def test_the_hard_case_and_the_zero_gradient_fill_the_ball_along_the_top_eigenvector() -> None:
    matrix = torch.diag(torch.tensor([4.0, 1.0, -1.0], dtype=torch.float64))
    gradient = torch.tensor([0.0, 0.3, 0.0], dtype=torch.float64)
    lanczos = run_lanczos(lambda v: matrix @ v, torch.ones(3), 20)
    corruption, value = solve_ball(lanczos, gradient, 1.0)
    # lambda = 4: a_2 = 0.3 / (4 - 1) = 0.1, the rest along the first axis: 0.1 * 0.3 + (4 * 0.99 + 0.01) / 2.
    assert value == pytest.approx(0.03 + (4 * 0.99 + 0.01) / 2, rel=1e-9)
    assert corruption[:].abs().tolist() == pytest.approx([math.sqrt(0.99), 0.1, 0.0], abs=1e-7)
    assert solve_ball(lanczos, torch.zeros(3), 0.5).value == pytest.approx(0.5 * 4 * 0.25)
    downhill = run_lanczos(lambda v: -v, torch.ones(3), 20)
    assert solve_ball(downhill, torch.zeros(3), 0.5).value == 0.0


def dense_hessian(session: Session, names: tuple[str, ...], at: Tensor) -> Tensor:
    shapes = [session.program.weights[name].shape for name in names]
    clean = torch.cat([session.program.weights[name].flatten() for name in names]).double()

    def loss(flat: Tensor) -> Tensor:
        pieces = flat.split([shape.numel() for shape in shapes])
        weights = {name: piece.view(shape) for name, piece, shape in zip(names, pieces, shapes, strict=True)}
        output = next(iter(session.program.forward(weights, session.dataset.inputs).values()))
        return functional.cross_entropy(output, session.dataset.target)

    return torch.as_tensor(torch.autograd.functional.hessian(loss, clean + at))


@pytest.mark.parametrize("names", [("layer0.weight", "layer1.bias"), ("layer1.weight",)])
def test_hessian_products_are_those_of_the_dense_hessian(names: tuple[str, ...]) -> None:
    session = build_session(build_mlp((3, 4, 4), activation="tanh")).cast(torch.float64)
    k = sum(session.program.weights[name].numel() for name in names)
    at, vector = 0.1 * random_vector(k, 1), random_vector(k, 2)
    product = make_hessian_product(session, names, at)
    truth = dense_hessian(session, names, at)
    torch.testing.assert_close(product(vector), truth @ vector, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(product(2 * vector), 2 * truth @ vector, rtol=1e-9, atol=1e-12)


class Once(torch.autograd.Function):
    """tanh whose second derivative is refused, as fused kernels refuse theirs."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        y = x.tanh()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors  # type: ignore[attr-defined]
        if torch.is_grad_enabled():
            message = "derivative for fused_tanh_backward is not implemented"
            raise RuntimeError(message)
        return torch.as_tensor(grad * (1 - y * y))


def test_without_a_second_derivative_the_products_are_differences_of_gradients() -> None:
    reference = build_session(build_mlp((3, 4, 4), activation="tanh")).cast(torch.float64)
    program = build_mlp((3, 4, 4), activation="tanh")
    steps = [
        make_step("tanh", Once.apply, step.inputs, step.outputs[0]) if step.operator == "tanh" else step for step in program.steps
    ]
    session = build_session(build_program(program.weights, steps, program.outputs))
    names, zero, vector = ("layer0.weight",), torch.zeros(12, dtype=torch.float64), random_vector(12, 2)
    truth = dense_hessian(reference, names, zero) @ vector
    torch.testing.assert_close(make_hessian_product(session, names, zero)(vector), truth, rtol=1e-5, atol=1e-7)


def test_fused_attention_is_differentiated_twice() -> None:
    weights = {"q": random_vector(16, 1).view(4, 4).float()}

    def attend(x: Tensor, q: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(
            (x @ q).view(-1, 1, 2, 2), x.view(-1, 1, 2, 2), x.view(-1, 1, 2, 2)
        ).flatten(1)

    session = build_session(build_program(weights, [make_step("attend", attend, ("x", "q"), "y")], ("y",), (None, 4))).cast(
        torch.float64
    )
    product = make_hessian_product(session, ("q",), torch.zeros(16, dtype=torch.float64))
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        truth = dense_hessian(session, ("q",), torch.zeros(16, dtype=torch.float64))
    vector = random_vector(16, 3)
    torch.testing.assert_close(product(vector), truth @ vector, rtol=1e-9, atol=1e-12)


def test_the_hessian_of_a_linear_regression_has_its_closed_form() -> None:
    x = random_vector(60, 3).view(20, 3).float()
    session = Session(build_mlp((3, 1)), Dataset({"x": x}, torch.zeros(20, 1)), Objective(loss="mse", metrics=()), 8)
    found = estimate_smoothness(run_lanczos(make_hessian_product(session, ("layer0.weight",), torch.zeros(3)), torch.ones(3)))
    truth = torch.linalg.eigvalsh(2 * x.T @ x / len(x))
    assert (found.highest, found.lowest) == pytest.approx((float(truth[-1]), float(truth[0])), rel=1e-5)


NORMS = [1.0, 1.2, 1.5, 2.0, 3.0, 5.0, math.inf]


def maximise_linear(gradients: Array, p: float, epsilon: float, n: int) -> Array:
    """Return, row by row, the maximiser of a linear form over S, from Hoelder's case of equality."""
    top = np.argsort(-np.abs(gradients), axis=1)[:, : 1 if p == 1 else n]
    h = np.zeros_like(gradients)
    np.put_along_axis(h, top, np.take_along_axis(gradients, top, 1), 1)
    shape = np.sign(h) * (1.0 if p in {1.0, math.inf} else np.abs(h) ** (1 / (p - 1)))
    size = np.abs(shape).max(1) if math.isinf(p) else (np.abs(shape) ** p).sum(1) ** (1 / p)
    return np.asarray(epsilon * shape / size[:, None])


def true_maximum(matrix: Tensor, gradient: Tensor, corruption_set: CorruptionSet, n: int) -> float:
    """The largest a^T g + a^T H a / 2, H positive semidefinite: linear maximisation again and again from 200 starts."""
    h, g, k = matrix.numpy(), gradient.numpy(), gradient.numel()
    a = np.vstack([g, np.random.default_rng(7).standard_normal((200, k))])
    for step in range(60):
        a = maximise_linear(g + a @ h if step else a, corruption_set.norm, corruption_set.epsilon, n)
    return float((a @ g + np.einsum("ij,jk,ik->i", a, h, a) / 2).max())


@pytest.mark.parametrize("norm", NORMS)
def test_theorem_2_with_the_constant_one_half_is_never_violated_on_convex_quadratics(norm: float) -> None:
    k = 6
    for seed, (n, epsilon) in enumerate([(1, 0.3), (2, 0.05), (3, 1.0), (6, 0.3), (6, 4.0)]):
        half = random_symmetric(k, seed)
        matrix, gradient = half @ half, random_vector(k, seed + 20)
        beta = float(torch.linalg.eigvalsh(matrix)[-1])
        chosen = CorruptionSet(norm, epsilon, n)
        step = compute_closed_form(gradient, chosen).corruption[:]
        one_step = float(step @ gradient + step @ matrix @ step / 2)
        h = keep_largest(gradient, n)
        bound = compute_error_bound(beta, chosen, k, dual_norm(h, norm))
        exponent = max(
            (norm - 4) / (2 * norm) if math.isfinite(norm) else 0.5, (1 - norm) / norm if math.isfinite(norm) else -1.0
        )
        published = 1 + beta * n**exponent * math.sqrt(k) * epsilon / (2 * float(torch.linalg.vector_norm(gradient)))
        ratio = true_maximum(matrix, gradient, chosen, n) / one_step
        assert bound.c is not None
        assert bound.ratio_convex is not None
        assert 1 - 1e-12 <= ratio <= bound.ratio_convex * (1 + 1e-12)
        assert bound.ratio_convex <= published * (1 + 1e-12)
        assert (bound.ratio_smooth is None) == (bound.c >= 1)
        assert bound.ratio_smooth is None or bound.ratio_smooth >= bound.ratio_convex


@pytest.mark.parametrize("norm", NORMS)
def test_the_excess_of_the_ratio_falls_as_epsilon_squared(norm: float) -> None:
    half = random_symmetric(5, 3)
    matrix, gradient = half @ half, random_vector(5, 9)
    excess = []
    for epsilon in (2e-3, 1e-3):
        chosen = CorruptionSet(norm, epsilon)
        step = compute_closed_form(gradient, chosen).corruption[:]
        one_step = float(step @ gradient + step @ matrix @ step / 2)
        excess.append(true_maximum(matrix, gradient, chosen, 5) / one_step - 1)
    if norm in {1.0, math.inf}:
        assert excess == pytest.approx([0.0, 0.0], abs=1e-13)
    else:
        assert excess[0] / excess[1] == pytest.approx(4.0, rel=0.05)


def test_the_linear_part_of_the_bound_is_the_first_order_maximum() -> None:
    gradient = random_vector(5, 4)
    for norm in NORMS:
        for n in (1, 3, 5):
            exact = best_linear_value(gradient, norm, 1.0, n)
            assert dual_norm(keep_largest(gradient, n), norm) == pytest.approx(exact, rel=1e-12)


def test_the_regime_is_said_in_words() -> None:
    chosen = CorruptionSet(2.0, 0.1)
    assert "slope dominates" in compute_error_bound(2.0, chosen, 4, 0.5).regime
    assert compute_error_bound(2.0, chosen, 4, 0.5).ratio_smooth == pytest.approx(1.2 / 0.8)
    assert "nothing follows" in compute_error_bound(50.0, chosen, 4, 0.5).regime
    assert compute_error_bound(50.0, chosen, 4, 0.0).c is None
