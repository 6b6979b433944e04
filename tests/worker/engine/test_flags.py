"""Every flag has a model that raises it and one that does not."""

import math
from dataclasses import replace

import pytest
import torch

from tests.worker.engine.programs import build_mlp, build_program, build_session, make_step
from tests.worker.engine.test_search import read_clean, run_search
from worker.engine.corruption import CorruptionSet
from worker.engine.data.dataset import Dataset
from worker.engine.flags import (
    FLAGS,
    RaisedFlag,
    find_cell_flags,
    find_chance_flags,
    find_curve_flags,
    find_loss_flags,
    find_model_flags,
)
from worker.engine.gradient import compute_gradient
from worker.engine.models.program import Program
from worker.engine.objective import Objective
from worker.engine.record import Candidate, Clean
from worker.engine.scopes import Layout, Scope
from worker.engine.search import Cell, CellResult, SearchSettings
from worker.engine.session import Evaluator, Session
from worker.engine.tally import Outcome


def codes(flags: list[RaisedFlag]) -> list[str]:
    assert all(flag.severity in {"info", "warning", "critical"} and flag.advice for flag in flags)
    return [flag.code for flag in flags]


def softmax_program() -> Program:
    steps = [make_step("mul", torch.mul, ("x", "a.w"), "h"), make_step("softmax", lambda v: v.softmax(-1), ("h",), "y")]
    return build_program({"a.w": torch.ones(3)}, steps, ("y",))


def test_softmax_at_the_end() -> None:
    assert codes(find_model_flags(build_session(softmax_program(), classes=3), 0.0)) == ["softmax_at_the_end"]
    stated = Objective(output_kind="probabilities")
    assert codes(find_model_flags(build_session(softmax_program(), classes=3, objective=stated), 0.0)) == []
    assert codes(find_model_flags(build_session(build_mlp((3, 4))), 0.0)) == []


def test_not_deterministic() -> None:
    steps = [make_step("noise", lambda v, w: v * w + torch.rand_like(v), ("x", "a.w"), "y", dynamic_shape=True)]
    session = build_session(build_program({"a.w": torch.ones(3)}, steps, ("y",)), classes=3)
    assert codes(find_model_flags(session, 0.0)) == ["not_deterministic"]


def test_batch_dependent() -> None:
    steps = [make_step("mul", torch.mul, ("x", "a.w"), "h"), make_step("span", lambda v: v / v.abs().max(), ("h",), "y")]
    session = build_session(build_program({"a.w": torch.ones(3)}, steps, ("y",)), classes=3)
    assert codes(find_model_flags(session, 0.0)) == ["batch_dependent"]


def test_parity_near_limit() -> None:
    assert codes(find_model_flags(build_session(build_mlp((3, 4))), 5e-4)) == ["parity_near_limit"]


def test_chance_level() -> None:
    session = build_session(build_mlp((3, 4)), examples=40)
    share = float(torch.bincount(session.dataset.target).max()) / 40
    assert codes(find_chance_flags(session, Clean(1.4, {"accuracy": share}))) == ["chance_level"]
    assert codes(find_chance_flags(session, Clean(0.1, {"accuracy": share + 0.1}))) == []


def build_result(losses: tuple[float | None, float | None], predicted: float = 0.5) -> CellResult:
    searched, random = (Outcome(loss, {}, 0 if loss is not None else 3) for loss in losses)
    cell = Cell(Scope("model", "model", ("w",)), CorruptionSet(2.0, 0.1), (None,))
    worst = Candidate("random", random, torch.ones(1)) if random.loss is None or random.loss > (searched.loss or 0) else None
    chosen = worst or Candidate("first_order", searched, torch.ones(1))
    return CellResult(cell, 1, 1, 1, predicted, 0.1 * torch.ones(1), searched, {"loss": chosen}, (random,), "single_step", 1, 0)


@pytest.mark.parametrize(
    ("losses", "predicted", "raised"),
    [
        ((1.0, 1.5), 0.5, ["random_beats_gradient"]),
        ((1.0, 1.000001), 0.5, []),
        ((1.5, 1.0), 0.5, []),
        ((1.0, 1.5), 0.0, []),
        ((1.0, None), 0.5, ["non_finite"]),
    ],
)
def test_cell_flags(losses: tuple[float, float | None], predicted: float, raised: list[str]) -> None:
    layout = Layout({"w": torch.ones(1)}, ["w"])
    assert codes(find_cell_flags(build_result(losses, predicted), Clean(0.5, {}), "f-0001", layout)) == raised


def search(session: Session, sets: list[CorruptionSet], settings: SearchSettings) -> tuple[list[CellResult], Clean, Layout]:
    info = compute_gradient(session, tuple(session.program.weights))
    clean = read_clean(info.clean)
    return run_search(session, sets, settings), clean, Evaluator(session, tuple(session.program.weights)).layout


def raise_flags(session: Session, sets: list[CorruptionSet], settings: SearchSettings) -> list[str]:
    """Return the codes that the cells of a real search raise."""
    results, clean, layout = search(session, sets, settings)
    cells = [flag for result in results for flag in find_cell_flags(result, clean, "f-0001", layout)]
    return codes([*cells, *find_curve_flags("model", [(one.cell.corruption_set, one.first_order) for one in results], clean)])


ONE_STEP = SearchSettings("first_order", 1, 0)


def build_waves() -> Session:
    """Return a model whose output goes up and down within a thousandth of its weights."""
    steps = [make_step("mul", torch.mul, ("x", "a.w"), "h"), make_step("sin", lambda h: torch.sin(2e4 * h), ("h",), "y")]
    return build_session(build_program({"a.w": torch.ones(3)}, steps, ("y",)), classes=3, examples=200)


def test_a_gradient_that_the_loss_does_not_follow_is_masked() -> None:
    small = [CorruptionSet(2.0, 1e-3)]
    assert raise_flags(build_waves(), small, ONE_STEP) == ["gradient_masked"]
    assert raise_flags(build_session(build_mlp((3, 6, 4), activation="tanh")), small, ONE_STEP) == []


def test_a_one_step_curve_that_falls() -> None:
    falling = [CorruptionSet(2.0, epsilon) for epsilon in (2e-5, 0.5)]
    assert "one_step_curve_falls" in raise_flags(build_waves(), falling, ONE_STEP)
    rising = [CorruptionSet(2.0, epsilon) for epsilon in (0.1, 0.2)]
    assert raise_flags(build_session(build_mlp((3, 6, 4))), rising, ONE_STEP) == []


def test_a_corruption_below_the_resolution_of_the_weights() -> None:
    session = build_session(build_mlp((3, 6, 4)))
    tiny = [CorruptionSet(math.inf, 1e-8)]
    assert raise_flags(session, tiny, ONE_STEP) == ["below_resolution"]
    assert raise_flags(session.cast(torch.float64), tiny, ONE_STEP) == []


def test_a_search_that_still_rises_at_its_end() -> None:
    rough, smooth = build_waves(), build_session(build_mlp((6, 16, 16, 4), seed=3), examples=60)
    assert raise_flags(rough, [CorruptionSet(2.0, 0.05, 3)], SearchSettings("auto", 24, 0)) == ["search_not_converged"]
    assert raise_flags(smooth, [CorruptionSet(2.0, 2.0)], SearchSettings("auto", 24, 0)) == []


def test_a_loss_near_zero_and_large_logits() -> None:
    program = build_mlp((3, 8, 4))
    inputs = build_session(program).dataset.inputs
    labels = program.forward({}, inputs)["linear1"].argmax(-1)
    sure = {name: weight * (3000.0 if name.startswith("layer1") else 1.0) for name, weight in program.weights.items()}
    session = Session(replace(program, weights=sure), Dataset(inputs, labels), Objective(), 16)
    clean = read_clean(compute_gradient(session, tuple(sure)).clean)
    assert "loss_scale" in codes(find_loss_flags(session, clean))
    assert codes(find_loss_flags(session, Clean(1e-5, {}))) == ["saturated_loss", "loss_scale"]
    plain = build_session(program)
    assert codes(find_loss_flags(plain, read_clean(compute_gradient(plain, tuple(program.weights)).clean))) == []


def test_gradient_below_rounding_counts_as_zero() -> None:
    # Softmax does not see a number added to every logit, so a shared shift has gradient zero up to rounding.
    steps = [make_step("mul", torch.mul, ("x", "a.w"), "h"), make_step("add", torch.add, ("h", "b.shift"), "y")]
    program = build_program(
        {"a.w": torch.randn(3, generator=torch.Generator().manual_seed(0)), "b.shift": torch.ones(1)}, steps, ("y",)
    )
    info = compute_gradient(build_session(program, classes=3), ["a.w", "b.shift"])
    assert info.is_zero(["b.shift"])
    assert not info.is_zero(["a.w"])
    assert not info.is_zero(["a.w", "b.shift"])


def test_every_flag_has_a_severity_and_advice() -> None:
    assert all(severity in {"info", "warning", "critical"} and advice for severity, advice in FLAGS.values())
