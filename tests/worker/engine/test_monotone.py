"""R7 and R8: results never fall as sets and scopes grow, and scale-invariant sets do not see a rescaling."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.worker.engine.programs import build_mlp, build_program, build_session, make_step
from tests.worker.engine.test_search import read_clean
from worker.engine.cells import plan_cells
from worker.engine.corruption import CorruptionSet
from worker.engine.gradient import compute_gradient
from worker.engine.models.program import Program
from worker.engine.record import Pool
from worker.engine.scopes import Scope
from worker.engine.search import CellResult, SearchSettings, search_cells
from worker.engine.session import Evaluator, Session

LAYERS = (("layer0.weight",), ("layer0.weight", "layer0.bias"), ("layer0.weight", "layer0.bias", "layer1.weight", "layer1.bias"))


def search_scopes(
    session: Session, scopes: list[Scope], sets: list[CorruptionSet], search: SearchSettings
) -> list[list[CellResult]]:
    info = compute_gradient(session, tuple(session.program.weights))
    pool = Pool(read_clean(info.clean))
    found = []
    for scope in scopes:
        evaluator = Evaluator(session, scope.tensors)
        cells = plan_cells(scope, evaluator.layout.size, sets)
        found.append(list(search_cells(evaluator, cells, info.flatten(scope.tensors), pool, search)))
    return found


@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from(["first_order", "reapplied", "auto"]),
    st.sampled_from([1.0, 1.5, 2.0, math.inf]),
    st.sampled_from(["absolute", "elementwise", "tensor"]),
)
def test_results_never_fall_as_sets_and_scopes_grow(seed: int, method: str, p: float, scale: str) -> None:
    session = build_session(build_mlp((3, 5, 4), seed=seed), seed=seed, examples=24)
    sets = [CorruptionSet(p, epsilon, n, scale) for n in (2, None, 5) for epsilon in (1.0, 0.3, 3.0)]
    scopes = [Scope("named", str(index), names) for index, names in enumerate(LAYERS)]
    found = search_scopes(session, scopes, sets, SearchSettings(method, 9, 1, seed))
    clean = read_clean(compute_gradient(session, LAYERS[-1]).clean)
    damage = {
        (index, asked, result.cell.corruption_set.epsilon): {
            what: clean.compute_damage(what, result.worst[what].outcome) for what in ("loss", "accuracy")
        }
        for index, results in enumerate(found)
        for result in results
        for asked in result.cell.asked
    }
    for (scope, n, epsilon), values in damage.items():
        for (larger_scope, larger_n, larger_epsilon), larger in damage.items():
            if larger_scope >= scope and (larger_n or math.inf) >= (n or math.inf) and larger_epsilon >= epsilon:
                assert all(larger[what] >= values[what] for what in values)


def scale_layers(program: Program, factor: float) -> Program:
    """Return the same function with layer 0 scaled by `factor` and what reads it by its inverse."""
    scales = {"layer0.weight": factor, "layer0.bias": factor, "layer1.weight": 1 / factor}
    return replace(program, weights={name: weight * scales.get(name, 1.0) for name, weight in program.weights.items()})


def build_normalised(gain: Tensor, factor: float) -> Program:
    """Return a linear layer, a normalisation with gain and shift, and a linear layer that reads it."""
    generator = torch.Generator().manual_seed(5)
    weights = {
        "first.weight": torch.randn(6, 3, generator=generator),
        "norm.gain": gain * factor,
        "norm.shift": torch.randn(6, generator=generator) * factor,
        "last.weight": torch.randn(4, 6, generator=generator) / factor,
    }
    steps = [
        make_step("linear", torch.nn.functional.linear, ("x", "first.weight"), "h"),
        make_step("normalise", lambda h: torch.nn.functional.layer_norm(h, (6,)), ("h",), "z"),
        make_step("mul", torch.mul, ("z", "norm.gain"), "scaled"),
        make_step("add", torch.add, ("scaled", "norm.shift"), "shifted"),
        make_step("linear", torch.nn.functional.linear, ("shifted", "last.weight"), "y"),
    ]
    return build_program(weights, steps, ("y",))


def build_twins(kind: str) -> tuple[Program, Program]:
    if kind == "relu layers":
        program = build_mlp((3, 6, 4), seed=2)
        return program, scale_layers(program, 8.0)
    gain = torch.linspace(0.5, 1.5, 6)
    return build_normalised(gain, 1.0), build_normalised(gain, 8.0)


@pytest.mark.parametrize("kind", ["relu layers", "normalisation"])
@pytest.mark.parametrize("scale", ["absolute", "elementwise", "tensor"])
@pytest.mark.parametrize("p", [2.0, math.inf])
@pytest.mark.parametrize("n", [None, 4])
def test_scaled_sets_do_not_see_a_rescaling_that_keeps_the_function(kind: str, scale: str, p: float, n: int | None) -> None:
    changes = []
    for program in build_twins(kind):
        session = build_session(program).cast(torch.float64)
        scope = Scope("model", "model", tuple(session.program.weights))
        [[result]] = search_scopes(session, [scope], [CorruptionSet(p, 0.05, n, scale)], SearchSettings("auto", 32, 3, 0))
        clean = read_clean(compute_gradient(session, scope.tensors).clean)
        worst = clean.compute_damage("loss", result.worst["loss"].outcome)
        changes.append([result.predicted, clean.compute_damage("loss", result.first_order), worst])
    if scale == "absolute":
        assert changes[0] != pytest.approx(changes[1], rel=0.01)
    else:
        assert changes[0] == pytest.approx(changes[1], rel=1e-7)


def test_cells_that_run_one_after_another_give_what_they_give_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    sets = [CorruptionSet(2.0, epsilon, n) for epsilon in (0.5, 0.1) for n in (None, 3)]
    scope, search = Scope("model", "model", LAYERS[-1]), SearchSettings("reapplied", 9, 2, 0)
    [together] = search_scopes(build_session(build_mlp((3, 5, 4))), [scope], sets, search)
    monkeypatch.setattr("worker.engine.search.CORRUPTED_BYTES", 1)
    [apart] = search_scopes(build_session(build_mlp((3, 5, 4))), [scope], sets, search)
    assert [one.cell for one in apart] == [one.cell for one in together]
    assert [one.worst["loss"].outcome for one in apart] == [one.worst["loss"].outcome for one in together]


def test_without_room_the_pool_keeps_nothing_and_the_search_goes_on() -> None:
    session = build_session(build_mlp((3, 5, 4)))
    info = compute_gradient(session, LAYERS[-1])
    evaluator, pool = Evaluator(session, LAYERS[-1]), Pool(read_clean(info.clean), room_bytes=100)
    cells = plan_cells(Scope("model", "model", LAYERS[-1]), evaluator.layout.size, [CorruptionSet(2.0, 0.5)])
    [result] = search_cells(evaluator, cells, info.flatten(LAYERS[-1]), pool, SearchSettings("auto", 20, 1))
    assert pool.known == []
    assert result.worst["loss"].outcome.loss is not None
