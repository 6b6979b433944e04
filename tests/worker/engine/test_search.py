"""The search: feasible, repeatable, never below one step, and right where the answer is known."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracles import p_norm
from tests.worker.engine.programs import build_mlp, build_program, build_session, make_step
from worker.engine.cells import plan_cells
from worker.engine.corruption import CorruptionSet
from worker.engine.gradient import compute_gradient
from worker.engine.objective import Objective
from worker.engine.record import Clean, Pool
from worker.engine.scopes import Scope
from worker.engine.search import CellResult, SearchSettings, search_cells
from worker.engine.session import Evaluator, Session
from worker.engine.strategies import STRATEGIES
from worker.engine.tally import Outcome


def run_search(
    session: Session, sets: list[CorruptionSet], search: SearchSettings, names: tuple[str, ...] = ()
) -> list[CellResult]:
    scope = Scope("model", "model", names or tuple(session.program.weights))
    evaluator = Evaluator(session, scope.tensors)
    info = compute_gradient(session, scope.tensors)
    clean = read_clean(info.clean)
    cells = plan_cells(scope, evaluator.layout.size, sets)
    found = search_cells(evaluator, cells, info.flatten(scope.tensors), Pool(clean), search)
    return sorted(found, key=lambda result: cells.index(result.cell))


def read_clean(outcome: Outcome) -> Clean:
    assert outcome.loss is not None
    return Clean(outcome.loss, {name: value for name, value in outcome.metrics.items() if value is not None})


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(sorted(STRATEGIES)),
    st.integers(0, 10**6),
    st.sampled_from([1.0, 1.5, 2.0, math.inf]),
    st.floats(1e-3, 3.0),
    st.sampled_from([1, 5, None]),
)
def test_every_kept_corruption_is_feasible_and_does_what_is_reported(
    method: str, seed: int, p: float, epsilon: float, n: int | None
) -> None:
    session = build_session(build_mlp((3, 6, 4), seed=seed), seed=seed)
    [result] = run_search(session, [CorruptionSet(p, epsilon, n)], SearchSettings(method, 12, 3, seed))
    for candidate in result.worst.values():
        assert p_norm(candidate.corruption[:], p) <= epsilon * (1 + 1e-9)
        assert int((candidate.corruption[:] != 0).sum()) <= (n or result.weights)
        [again] = Evaluator(session, tuple(session.program.weights)).measure([candidate.corruption[:]])
        assert again == candidate.outcome
    worst = result.worst["loss"].outcome.loss
    assert worst is not None
    assert result.first_order.loss is not None
    assert worst >= max([result.first_order.loss, *[outcome.loss or 0 for outcome in result.random]])
    assert result.forward + result.backward <= 12


@pytest.mark.parametrize("method", sorted(STRATEGIES))
@pytest.mark.parametrize("budget", [1, 2, 3, 4, 11, 64])
def test_no_method_spends_more_than_its_budget(method: str, budget: int) -> None:
    session = build_session(build_mlp((4, 6, 4)))
    for result in run_search(
        session, [CorruptionSet(2.0, 0.5), CorruptionSet(math.inf, 0.1, 3)], SearchSettings(method, budget, 0)
    ):
        assert 1 <= result.forward + result.backward <= budget
        assert result.stop_reason in {"single_step", "converged", "budget"}


def test_ascent_leaves_the_first_support_where_reapplying_cannot() -> None:
    session = build_session(build_mlp((6, 16, 16, 4), seed=3), examples=60)
    worst = {}
    for method in ("first_order", "reapplied", "auto"):
        [result] = run_search(session, [CorruptionSet(2.0, 2.0, 5)], SearchSettings(method, 64, 0))
        worst[method] = result.worst["loss"].outcome.loss or 0.0
    assert worst["auto"] > 1.05 * worst["reapplied"]
    assert worst["reapplied"] >= worst["first_order"]


def test_more_passes_never_find_less() -> None:
    session = build_session(build_mlp((5, 12, 4)))
    found = [run_search(session, [CorruptionSet(2.0, 1.0)], SearchSettings("reapplied", budget, 0)) for budget in (1, 3, 9, 33)]
    losses = [results[0].worst["loss"].outcome.loss or 0.0 for results in found]
    assert losses == sorted(losses)
    assert losses[-1] > losses[0]


def test_convex_loss_rises_with_every_reapplied_step_to_the_known_maximum() -> None:
    # One linear unit with squared loss on x = 1, target 0: L = (w + b)^2 with w = 1, b = 0, so the worst
    # corruption of L2 norm e is e / sqrt(2) on each and the loss is (1 + sqrt(2) e)^2.
    steps = [make_step("linear", torch.nn.functional.linear, ("x", "u.weight", "u.bias"), "y")]
    program = build_program({"u.weight": torch.ones(1, 1), "u.bias": torch.zeros(1)}, steps, ("y",), (None, 1))
    session = build_session(program, objective=Objective("mse", metrics=("mse",)))
    inputs, target = torch.ones(4, 1), torch.zeros(4, 1)
    session = Session(program, type(session.dataset)({"x": inputs}, target), session.objective, 4).cast(torch.float64)
    [result] = run_search(session, [CorruptionSet(2.0, 0.5)], SearchSettings("reapplied", 20, 0))
    assert result.worst["loss"].outcome.loss == pytest.approx((1 + math.sqrt(2) * 0.5) ** 2, rel=1e-12)
    assert result.predicted == pytest.approx(0.5 * math.sqrt(8), rel=1e-12)
    assert result.stop_reason == "converged"


def test_first_order_method_spends_one_pass() -> None:
    [result] = run_search(build_session(build_mlp((3, 4))), [CorruptionSet(2.0, 0.1)], SearchSettings("first_order", 64, 2))
    assert (result.stop_reason, result.forward, result.backward) == ("single_step", 1, 0)
    assert len(result.random) == 2


def test_random_corruption_does_little_where_the_gradient_based_one_does_much() -> None:
    session = build_session(build_mlp((20, 60, 60, 4)), examples=64)
    [result] = run_search(session, [CorruptionSet(2.0, 0.5)], SearchSettings("reapplied", 15, 20))
    clean = read_clean(compute_gradient(session, tuple(session.program.weights)).clean)
    random = max(clean.compute_damage("loss", outcome) for outcome in result.random)
    assert clean.compute_damage("loss", result.first_order) > 5 * abs(random)


def test_zero_gradient_starts_from_random_corruptions() -> None:
    # The loss is quadratic in w around 0: no first-order damage, but damage all the same.
    steps = [make_step("mul", torch.mul, ("x", "a.w"), "h"), make_step("square", torch.square, ("h",), "y")]
    program = build_program({"a.w": torch.zeros(3)}, steps, ("y",), (None, 3))
    session = build_session(program, classes=3)
    [result] = run_search(session, [CorruptionSet(2.0, 1.0)], SearchSettings("reapplied", 10, 5))
    assert result.predicted == 0.0
    assert (result.worst["loss"].outcome.loss or 0.0) > (result.first_order.loss or 0.0)
    [bare] = run_search(session, [CorruptionSet(2.0, 1.0)], SearchSettings("reapplied", 10, 0))
    assert bare.stop_reason == "zero_gradient"


def test_non_finite_damage_stops_the_search_and_ranks_above_all() -> None:
    steps = [make_step("mul", torch.mul, ("x", "a.w"), "h"), make_step("exp", lambda v: torch.exp(50 * v), ("h",), "y")]
    session = build_session(build_program({"a.w": torch.full((3,), 0.1)}, steps, ("y",), (None, 3)), classes=3)
    [result] = run_search(session, [CorruptionSet(2.0, 5.0)], SearchSettings("reapplied", 10, 2))
    assert result.stop_reason == "non_finite"
    assert result.worst["loss"].outcome.loss is None
    assert result.worst["loss"].outcome.non_finite > 0


def test_the_same_search_twice_is_bit_equal_and_grouping_of_cells_does_not_matter() -> None:
    session = build_session(build_mlp((5, 12, 4)))
    sets = [CorruptionSet(p, e, n) for p in (1.5, 2.0, math.inf) for e in (0.05, 0.3) for n in (None, 7)]
    chosen = SearchSettings("reapplied", 9, 4, 3)
    together = run_search(session, sets, chosen)
    alone = [run_search(session, [entry], chosen)[0] for entry in sets]
    for one, other in zip(together, alone, strict=True):
        assert one.worst["loss"].outcome == other.worst["loss"].outcome
        assert torch.equal(one.worst["loss"].corruption[:], other.worst["loss"].corruption[:])
        assert (one.random, one.predicted, one.stop_reason) == (other.random, other.predicted, other.stop_reason)


def test_cells_that_come_to_the_same_set_are_one() -> None:
    scope = Scope("model", "model", ("w",))
    cells = plan_cells(scope, 10, [CorruptionSet(2.0, 0.1, n) for n in (None, 5, 10, 50)])
    assert [(cell.asked, cell.corruption_set.max_corrupted) for cell in cells] == [((None, 10, 50), None), ((5,), 5)]
    assert len(plan_cells(scope, 10, [CorruptionSet(1.0, 0.1, n) for n in (None, 5, 1)])) == 1


def test_second_order_finds_damage_where_the_gradient_is_zero() -> None:
    # The loss is quadratic around w = 0, so Lanczos sees it exactly: the worst direction is the top eigenvector's.
    steps = [make_step("mul", torch.mul, ("x", "a.w"), "h"), make_step("sum", lambda h: h.sum(1, keepdim=True), ("h",), "y")]
    program = build_program({"a.w": torch.zeros(3)}, steps, ("y",), (None, 3))
    session = build_session(program, objective=Objective("mse", metrics=("mse",)))
    inputs = session.dataset.inputs["x"].double()
    session = Session(program, type(session.dataset)({"x": inputs.float()}, torch.zeros(len(inputs), 1)), session.objective, 16)
    largest = torch.linalg.eigvalsh(inputs.T @ inputs / len(inputs))[-1]
    for method in ("second_order", "auto"):
        [result] = run_search(session, [CorruptionSet(2.0, 0.5)], SearchSettings(method, 40, 0))
        assert result.worst["loss"].outcome.loss == pytest.approx(0.25 * float(largest), rel=1e-5)
        assert result.forward + result.backward <= 40


def test_the_margin_ascent_lowers_accuracy_where_the_loss_does_not_lead() -> None:
    # One example is far from the boundary and has nearly all of the loss's slope; three are near it.
    inputs = torch.tensor([[-4.0, 0.0], [0.0, 0.3], [0.0, 0.3], [0.0, 0.3]])
    steps = [make_step("linear", torch.nn.functional.linear, ("x", "u.weight"), "y")]
    program = build_program({"u.weight": torch.tensor([[1.0, 1.0], [-1.0, -1.0]])}, steps, ("y",), (None, 2))
    session = build_session(program, classes=2)
    session = Session(program, type(session.dataset)({"x": inputs}, torch.zeros(4, dtype=torch.long)), Objective(), 4)
    found = {}
    for method in ("reapplied", "auto"):
        [result] = run_search(session, [CorruptionSet(2.0, 1.5)], SearchSettings(method, 64, 0))
        found[method] = result.worst["accuracy"].outcome.metrics["accuracy"]
    assert found == {"reapplied": 0.75, "auto": 0.0}


def test_where_everything_measured_helps_the_worst_found_is_no_corruption() -> None:
    # Each label is the class that the model gives least: wherever a step goes, once far enough it does better than now.
    program = build_mlp((3, 4), seed=0)
    session = build_session(program)
    wrong = program.forward({}, session.dataset.inputs)["linear0"].argmin(-1)
    session = replace(session, dataset=session.dataset.with_labels(wrong))
    steps = [make_step("sine", torch.sin, ("linear0",), "z")]
    waves = replace(session, program=replace(program, steps=(*program.steps, *steps), outputs=("z",)))
    for epsilon in (1.0, 2.0, 3.0, 4.0, 5.0, 6.0):
        [result] = run_search(waves, [CorruptionSet(2.0, epsilon)], SearchSettings("first_order", 1, 0))
        clean = compute_gradient(waves, tuple(program.weights)).clean
        worst, first = result.worst["loss"], result.first_order
        assert worst.outcome.loss == max(first.loss or 0.0, clean.loss or 0.0)
        assert (worst.method == "none") is ((first.loss or 0.0) < (clean.loss or 0.0))
        assert bool(worst.corruption[:].any()) is (worst.method != "none")
