"""Long corruptions are formulas and files, and large copies of weights are made when they are read: with the same figures."""

import math
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.worker.engine.programs import build_mlp, build_session
from tests.worker.engine.test_search import run_search
from worker.engine import corruption, filed, session
from worker.engine.corruption import Corruption, CorruptionSet, Formula, compute_closed_form, round_inwards
from worker.engine.filed import Filed, file_away
from worker.engine.gradient import compute_gradient
from worker.engine.regions import Ball, build_region
from worker.engine.search import CellResult, SearchSettings
from worker.engine.session import Evaluator

SETS = [CorruptionSet(p, 0.4, n) for p in (1.0, 1.5, 2.0, math.inf) for n in (3, None)]
SETS += [CorruptionSet(2.0, 0.1, None, "elementwise"), CorruptionSet(2.0, 0.1, 7, "tensor")]


def draw(size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def hold_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corruption, "LONG", 5)
    monkeypatch.setattr(filed, "LONG", 5)
    monkeypatch.setattr(corruption, "CHUNK", 32)
    monkeypatch.setattr(session, "CORRUPTED_BYTES", 0)


def search(method: str, sets: list[CorruptionSet]) -> list[CellResult]:
    return run_search(build_session(build_mlp((4, 8, 6, 3), seed=2), 20, 3), sets, SearchSettings(method, 40, 2))


@pytest.mark.parametrize("method", ["first_order", "reapplied", "ascent", "auto"])
def test_a_search_that_holds_nothing_finds_the_same(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    held = search(method, SETS)
    hold_nothing(monkeypatch)
    for one, other in zip(held, search(method, SETS), strict=True):
        assert isinstance(other.worst["loss"].corruption, Filed)
        assert (other.stop_reason, other.corrupted, other.forward) == (one.stop_reason, one.corrupted, one.forward)
        assert other.predicted == pytest.approx(one.predicted, rel=1e-12)
        for what, candidate in one.worst.items():
            assert other.worst[what].method == candidate.method
            assert other.worst[what].outcome.loss == pytest.approx(candidate.outcome.loss, rel=1e-5)
            assert torch.allclose(other.worst[what].corruption[:], candidate.corruption[:], rtol=1e-3, atol=1e-5)


def test_weights_made_when_read_have_the_losses_of_those_that_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = build_session(build_mlp((4, 7, 6, 3)), 20, 3, micro_batch=8)
    for names in (tuple(opened.program.weights), tuple(opened.program.weights)[2:4]):
        evaluator = Evaluator(opened, names)
        given: list[Corruption] = [0.1 * draw(evaluator.layout.size, seed) for seed in range(3)]
        held = evaluator.measure(given)
        monkeypatch.setattr(session, "CORRUPTED_BYTES", 0)
        assert evaluator.measure(given) == held != Evaluator(opened, names).measure([torch.zeros(evaluator.layout.size)] * 3)
        monkeypatch.undo()


@pytest.mark.parametrize("p", [1.0, 1.2, 2.0, 3.0, math.inf])
@pytest.mark.parametrize("n", [1, 30, None])
def test_a_float32_corruption_lies_in_its_own_ball_without_any_slack(p: float, n: int | None) -> None:
    for seed, epsilon in enumerate((0.1, 0.3, 1e-3, 7.7)):
        chosen, gradient = CorruptionSet(p, epsilon, n), draw(200, seed)
        region = Ball(chosen, 200, dtype=torch.float32)
        far = 10 * draw(200, seed + 50)
        for found in (region.maximise(gradient).corruption[:], region.draw(seed)[:], region.project(far)):
            assert found.dtype == torch.float32
            entries = [abs(Fraction(value)) for value in found.tolist()]
            if math.isinf(p) or p == 1:
                size = max(entries) if math.isinf(p) else sum(entries)
                assert size <= Fraction(epsilon) * (1 if math.isinf(p) else 1 + Fraction(1, 10**14))
                continue
            total = math.fsum(float(entry) ** p for entry in entries) ** (1 / p)
            assert epsilon * (1 - 3e-7) <= total <= epsilon * (1 + 1e-14)


def test_rounding_inwards_never_grows_and_loses_less_than_one_place() -> None:
    values = torch.cat([draw(1000, 1).double() ** 3, torch.tensor([0.1, -0.1, 1 - 2**-30, 0.0, math.inf], dtype=torch.float64)])
    rounded = round_inwards(values, torch.float32)
    assert bool((rounded.double().abs() <= values.abs()).all())
    assert bool((values.abs()[:-1] - rounded.double().abs()[:-1] <= 2**-23 * values.abs()[:-1]).all())
    assert round_inwards(values, torch.float64) is values


@pytest.mark.parametrize("chosen", SETS[:-2])
def test_a_formula_reads_as_the_vector_that_it_stands_for(chosen: CorruptionSet, monkeypatch: pytest.MonkeyPatch) -> None:
    gradient = torch.round(draw(100), decimals=1)  # with equal magnitudes
    held = compute_closed_form(gradient, chosen).corruption
    assert isinstance(held, Tensor)
    monkeypatch.setattr(corruption, "LONG", 5)
    monkeypatch.setattr(corruption, "CHUNK", 7)
    formula = compute_closed_form(gradient, chosen).corruption
    assert isinstance(formula, Formula)
    assert torch.allclose(formula[:], held, rtol=3e-7, atol=0)
    assert torch.equal(formula[13:58], formula[:][13:58])


def test_a_file_gives_back_what_was_written_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filed, "LONG", 5)
    monkeypatch.setattr(corruption, "CHUNK", 7)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for vector in (draw(50), draw(50).double()):
        kept = file_away(vector)
        assert isinstance(kept, Filed)
        assert file_away(kept) is kept
        assert torch.equal(kept[:], vector)
        assert torch.equal(kept[3:41], vector[3:41])
        assert kept.numel() == 50
        assert list(tmp_path.iterdir()) == []


def test_where_there_is_no_room_for_a_file_it_stays_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filed, "LONG", 5)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    vector = draw(50)
    assert file_away(vector) is vector


def test_gradients_of_neighbours_are_no_copies() -> None:
    opened = build_session(build_mlp((4, 7, 6, 3)), 20, 3)
    names = tuple(opened.program.weights)
    found = compute_gradient(opened, names)
    for chosen in (names, names[1:3], names[-1:]):
        part = found.flatten(chosen)
        assert part.untyped_storage().data_ptr() == found.vector.untyped_storage().data_ptr()
        assert torch.equal(part, torch.cat([found.vector[found.places[name]] for name in chosen]))
    apart = found.flatten((names[0], names[3]))
    assert torch.equal(apart, torch.cat([found.flatten(names[:1]), found.flatten(names[3:4])]))


def test_long_draws_are_those_of_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    region = build_region(CorruptionSet(2.0, 0.5), [torch.ones(1000)], [None])
    whole = region.draw(3)[:]
    monkeypatch.setattr(corruption, "CHUNK", 64)
    assert torch.allclose(region.draw(3)[:], whole, rtol=1e-6, atol=0)
