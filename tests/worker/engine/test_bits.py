"""Bit flips against Python's own bits (struct), against every single flip measured, and against random ones (R9)."""

import math
import struct
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from benchmarks.bit_flips import DATA, quantise_digits
from tests.oracles import mean_cross_entropy
from tests.worker.engine.programs import build_mlp, build_program, build_session, make_step
from worker.engine.bits import FlipSearch, FlipSettings, draw_random_flips, rank_flips, search_bit_flips
from worker.engine.data.files import DataFile
from worker.engine.gradient import compute_gradient
from worker.engine.models.program import Grid, Program
from worker.engine.models.stored import Flip, apply_flips, count_flips, read_stored
from worker.engine.objective import Objective
from worker.engine.opening import Source, label_by_model, open_session
from worker.engine.record import Clean
from worker.engine.session import Evaluator, Session

MANTISSAS = FlipSettings(kinds=frozenset({"mantissa"}))
NO_EXPONENT = FlipSettings(kinds=frozenset({"sign", "mantissa"}))
CODES = {torch.float16: ("<e", "<H"), torch.float32: ("<f", "<I"), torch.float64: ("<d", "<Q")}
MANTISSA = {torch.float16: 10, torch.bfloat16: 7, torch.float32: 23, torch.float64: 52}
EDGES = [0.0, -0.0, 1.0, -1.5, 0.1, 3.0e-5, 1.9999, -6.1e-5, 300.0, 1e-7]


def flip_float(value: float, bit: int, dtype: torch.dtype) -> float:
    """Flip a bit of a number with Python's struct; bfloat16 is the upper half of a float32."""
    if dtype == torch.bfloat16:
        return flip_float(value, bit + 16, torch.float32)
    floating, integer = CODES[dtype]
    [code] = struct.unpack(integer, struct.pack(floating, value))
    return float(struct.unpack(floating, struct.pack(integer, code ^ (1 << bit)))[0])


def flip_code(code: int, bit: int, bits: int, *, signed: bool) -> int:
    """Flip a bit of an integer in two's complement, with Python's integers."""
    flipped = (code % (1 << bits)) ^ (1 << bit)
    return flipped - (1 << bits) if signed and flipped >= 1 << (bits - 1) else flipped


def quantise(program: Program) -> Program:
    """Return the program with its weights rounded to int8, a step for each row."""
    weights, grids = {}, {}
    for name, weight in program.weights.items():
        step = weight.abs().reshape(len(weight), -1).amax(1).reshape(-1, *[1] * (weight.ndim - 1)) / 100
        codes = (weight / step).round().to(torch.int8)
        grids[name] = Grid(codes, step, torch.zeros_like(step, dtype=torch.int8))
        weights[name] = codes.float() * step
    return replace(program, weights=weights, grids=grids)


def begin(session: Session, names: tuple[str, ...] | None = None) -> tuple[Evaluator, Tensor, Clean]:
    names = names or tuple(session.program.weights)
    info = compute_gradient(session, names)
    assert info.clean.loss is not None
    clean = Clean(info.clean.loss, {name: value or 0.0 for name, value in info.clean.metrics.items()})
    return Evaluator(session, names), info.flatten(names), clean


def search(session: Session, counts: list[int], settings: FlipSettings | None = None) -> FlipSearch:
    evaluator, gradient, clean = begin(session)
    return search_bit_flips(evaluator, session.program.grids, gradient, clean, counts, settings)


def list_single_flips(program: Program) -> Iterator[tuple[str, int, int, float, float]]:
    """Yield (tensor, index, bit, old, new) for every bit of a float32 or int8 program, with Python's numbers."""
    for name, weight in program.weights.items():
        grid = program.grids.get(name)
        for index, old in enumerate(weight.flatten().tolist()):
            for bit in range(32 if grid is None else 8):
                if grid is None:
                    yield name, index, bit, old, flip_float(old, bit, torch.float32)
                else:
                    code = int(grid.codes.flatten()[index])
                    step = float(grid.step.expand_as(grid.codes).flatten()[index])
                    yield name, index, bit, old, step * flip_code(code, bit, 8, signed=True)


def measure_loss(session: Session, changes: dict[tuple[str, int], float]) -> float:
    """Return the loss with these weights replaced, by the whole program and the plain mean."""
    weights = {name: weight.clone() for name, weight in session.program.weights.items()}
    for (name, index), value in changes.items():
        weights[name].view(-1)[index] = value
    output = session.program.forward(weights, session.dataset.inputs)["linear1"]
    if not bool(output.isfinite().all()):
        return math.inf
    return mean_cross_entropy(output, session.dataset.target)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_flipped_floats_are_those_of_python(dtype: torch.dtype) -> None:
    weights = {"w": torch.tensor(EDGES, dtype=dtype).reshape(2, 5)}
    stored = read_stored(weights, {}, ["w"])["w"]
    for index, value in enumerate(weights["w"].flatten().tolist()):
        for bit in range(dtype.itemsize * 8):
            changed, flip = stored.flip("w", index, bit)
            expected = flip_float(value, bit, dtype)
            found = changed.values.flatten()
            assert (flip.old, found[index].item()) == pytest.approx((value, expected), rel=0, abs=0, nan_ok=True)
            assert flip.new == pytest.approx(expected, rel=0, abs=0, nan_ok=True)
            kind = "mantissa" if bit < MANTISSA[dtype] else "exponent"
            assert flip.kind == ("sign" if bit == dtype.itemsize * 8 - 1 else kind)
            rest = torch.arange(10) != index
            assert torch.equal(found[rest], weights["w"].flatten()[rest])
            everywhere = stored.decode(stored.flip_everywhere(bit)).flatten()[index].item()
            assert everywhere == pytest.approx(expected, rel=0, abs=0, nan_ok=True)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32])
def test_flipped_codes_are_those_of_python(dtype: torch.dtype) -> None:
    limits = torch.iinfo(dtype)
    codes = torch.tensor([[limits.min, 0, 1], [77, limits.max, limits.min + 1]], dtype=dtype)
    grid = Grid(codes, torch.tensor([[0.25], [0.5]]), torch.tensor([[3], [1]], dtype=dtype))
    weights = {"w": grid.decode(codes)}
    stored = read_stored(weights, {"w": grid}, ["w"])["w"]
    for index, code in enumerate(codes.flatten().tolist()):
        for bit in range(limits.bits):
            changed, flip = stored.flip("w", index, bit)
            step, zero_point = (0.25, 3) if index < 3 else (0.5, 1)
            flipped = flip_code(code, bit, limits.bits, signed=dtype.is_signed)
            expected = struct.unpack("<f", struct.pack("<f", float(flipped - zero_point)))[0] * step
            assert changed.codes.flatten()[index] == flipped
            assert changed.values.flatten()[index].item() == flip.new == expected
            assert flip.kind == ("sign" if dtype.is_signed and bit == limits.bits - 1 else "value")


def test_flips_replace_weights_where_no_sum_would_do() -> None:
    weights = {"w": torch.tensor([1.5])}
    flip = Flip("w", 0, 29, "exponent", 1.5, flip_float(1.5, 29, torch.float32))

    assert apply_flips(weights, {}, [flip])["w"].item() == flip.new
    assert weights["w"].item() == 1.5
    assert (weights["w"] + torch.tensor(flip.new - flip.old)).item() != flip.new


def test_a_second_flip_of_a_weight_acts_on_the_first() -> None:
    weights = {"w": torch.tensor([[0.7, -0.2]])}
    flips = [Flip("w", 1, 31, "sign", 0, 0), Flip("w", 1, 22, "mantissa", 0, 0)]

    found = apply_flips(weights, {}, flips)["w"]

    expected = flip_float(flip_float(weights["w"][0, 1].item(), 31, torch.float32), 22, torch.float32)
    assert found[0].tolist() == [weights["w"][0, 0].item(), expected]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("stored", ["int8", "float32"])
def test_the_best_single_flip_found_is_the_best_of_all(stored: str, seed: int) -> None:
    program = build_mlp((3, 5, 4), seed=seed)
    session = build_session(quantise(program) if stored == "int8" else program, seed=seed + 10)
    # a flip of a float's sign or exponent moves a weight so far that eight measurements need not hold the best of 1,376
    settings = FlipSettings() if stored == "int8" else MANTISSAS
    losses = {
        (name, index, bit): measure_loss(session, {(name, index): new})
        for name, index, bit, _, new in list_single_flips(session.program)
        if stored == "int8" or bit < 23
    }

    [found] = search(session, [1], settings).results

    [flip] = found.worst["loss"].flips
    best = max(losses, key=lambda key: losses[key])
    assert (flip.tensor, flip.index, flip.bit) == best
    assert found.worst["loss"].outcome.loss == pytest.approx(losses[best], rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_a_float_that_breaks_the_outputs_is_found_where_one_flip_can(seed: int) -> None:
    session = build_session(build_mlp((3, 5, 4), seed=seed))
    flips = [entry for entry in list_single_flips(session.program) if entry[2] == 30 and math.isfinite(entry[4])]
    losses = [measure_loss(session, {(name, index): new}) for name, index, _, _, new in flips]

    found = search(session, [1])

    assert max(losses) == math.inf
    assert found.stop_reason == "non_finite"
    assert found.results[0].worst["loss"].outcome.loss is None


@pytest.mark.parametrize("stored", ["int8", "float32"])
def test_the_ranking_is_that_of_the_first_order_change_of_every_flip(stored: str) -> None:
    program = build_mlp((3, 5, 4), seed=3)
    session = build_session(quantise(program) if stored == "int8" else program)
    evaluator, gradient, _ = begin(session)
    slopes = evaluator.layout.split(gradient)
    best: dict[tuple[str, int], float] = {}
    for name, index, _, old, new in list_single_flips(session.program):
        if math.isfinite(new):
            change = float(slopes[name][index]) * (new - old)
            best[name, index] = max(best.get((name, index), -math.inf), change)

    weights = read_stored(session.program.weights, session.program.grids, evaluator.layout.names)
    ranked = rank_flips(weights, slopes, FlipSettings(candidates=10))

    order = sorted(best, key=lambda key: -best[key])
    assert [(name, index) for name, index, _ in ranked] == order[:10]


def test_equal_flips_are_ranked_in_order_of_tensor_and_index() -> None:
    weights = {"b": torch.full((2, 3), 0.5), "a": torch.full((4,), 0.5)}
    slopes = {"b": torch.ones(6), "a": torch.ones(4)}

    ranked = rank_flips(read_stored(weights, {}, weights), slopes, FlipSettings(candidates=8))

    assert [(name, index) for name, index, _ in ranked] == [("b", index) for index in range(6)] + [("a", 0), ("a", 1)]


@pytest.mark.parametrize("stored", ["int8", "float32"])
def test_results_never_fall_hold_their_flips_and_are_repeated_by_replaying_them(stored: str) -> None:
    program = build_mlp((3, 5, 4), seed=2)
    session = build_session(quantise(program) if stored == "int8" else program)
    found = search(session, [1, 2, 3, 5, 9], NO_EXPONENT if stored == "float32" else None)

    losses = [result.worst["loss"].outcome.loss or math.inf for result in found.results]
    assert losses == sorted(losses)
    assert [result.count for result in found.results] == [1, 2, 3, 5, 9]
    for result in found.results:
        for worst in result.worst.values():
            assert len(worst.flips) == len({(flip.tensor, flip.index, flip.bit) for flip in worst.flips}) <= result.count
        assert (result.forward, result.backward) == (9 * result.count - 1, result.count - 1)
        flips = result.worst["loss"].flips
        changed = apply_flips(session.program.weights, session.program.grids, flips)
        output = session.program.forward(changed, session.dataset.inputs)["linear1"]
        assert result.worst["loss"].outcome.loss == pytest.approx(mean_cross_entropy(output, session.dataset.target), rel=1e-5)
    assert search(session, [1, 2, 3, 5, 9], NO_EXPONENT if stored == "float32" else None) == found


def test_flips_that_make_nan_or_inf_are_counted_and_left_out_unless_asked_for() -> None:
    program = build_mlp((3, 5, 4), seed=1)
    program.weights["layer0.weight"][:2] = 1.5
    session = build_session(program)
    made = [not math.isfinite(new) for *_, new in list_single_flips(program)]

    assert count_flips(read_stored(program.weights, {}, program.weights), FlipSettings().kinds) == (len(made), sum(made))
    assert sum(made) >= 6
    kept, asked = search(session, [3]), search(session, [3], FlipSettings(non_finite=True))
    assert kept.non_finite == asked.non_finite == sum(made)
    assert all(math.isfinite(flip.new) for flip in kept.results[0].worst["loss"].flips)
    assert not math.isfinite(asked.results[0].worst["loss"].flips[0].new)
    assert asked.stop_reason == "non_finite"
    assert asked.results[0].worst["loss"].outcome.non_finite > 0


def test_only_flips_of_the_kinds_asked_for_are_counted() -> None:
    program = build_mlp((3, 5, 4), seed=1)
    program.weights["layer0.weight"][:2] = 1.5
    weights = sum(weight.numel() for weight in program.weights.values())
    stored = read_stored(program.weights, {}, program.weights)
    assert count_flips(stored, {"sign"}) == (weights, 0)
    assert count_flips(stored, {"mantissa"}) == (23 * weights, 0)
    assert count_flips(stored, {"exponent"}) == (8 * weights, count_flips(stored, FlipSettings().kinds)[1])


def test_where_the_gradient_is_zero_the_largest_changes_are_tried() -> None:
    # The divergence from the clean model is smallest at the clean weights: no gradient there, and damage all around.
    program = build_mlp((3, 6, 4), seed=1)
    session = label_by_model(build_session(program, objective=Objective("kl_to_clean")))
    evaluator, _, clean = begin(session)
    flat = torch.zeros(evaluator.layout.size)

    found = search_bit_flips(evaluator, {}, flat, clean, [1, 2], NO_EXPONENT)

    one, two = (result.worst["loss"] for result in found.results)
    assert (one.outcome.loss or 0.0) > 0
    assert (two.outcome.loss or 0.0) >= (one.outcome.loss or 0.0)
    changes = [abs(new - old) for _, _, bit, old, new in list_single_flips(program) if bit == 31 or bit < 23]
    tried = abs(one.flips[0].new - one.flips[0].old)
    assert tried >= sorted(changes)[-FlipSettings().candidates]


def test_a_scope_that_the_loss_does_not_see_has_nothing_to_report() -> None:
    steps = [make_step("mul", torch.mul, ("x", "dead"), "a"), make_step("mul", lambda a, b: a + 0 * b, ("x", "a"), "y")]
    session = build_session(build_program({"dead": torch.ones(3)}, steps, ("y",)), classes=3)

    found = search(session, [2], NO_EXPONENT)

    assert found.stop_reason == "budget"
    assert found.results[0].worst["loss"].flips == ()


@pytest.mark.parametrize("settings", [FlipSettings(), NO_EXPONENT, FlipSettings(non_finite=True)])
def test_random_flips_are_distinct_repeatable_and_of_the_kinds_asked_for(settings: FlipSettings) -> None:
    program = build_mlp((3, 5, 4), seed=1)
    program.weights["layer0.weight"][:] = 1.5
    evaluator, _, _ = begin(build_session(program))

    drawn = draw_random_flips(evaluator, {}, 60, 20, 7, settings)

    assert repr(drawn) == repr(draw_random_flips(evaluator, {}, 60, 20, 7, settings))
    for trial in drawn.trials:
        assert len({(flip.tensor, flip.index, flip.bit) for flip in trial.flips}) == len(trial.flips) == 60
        assert {flip.kind for flip in trial.flips} <= settings.kinds
    made = [not math.isfinite(flip.new) for trial in drawn.trials for flip in trial.flips]
    assert any(made) is settings.non_finite
    assert (drawn.passed_over > 0) is (settings == FlipSettings())
    # 1,376 flips, each as likely as the others: the share of signs is 1 in 32, or 1 in 24 without the exponent
    signs = sum(flip.kind == "sign" for trial in drawn.trials for flip in trial.flips)
    assert signs / 1200 == pytest.approx(1 / 24 if settings == NO_EXPONENT else 1 / 32, abs=0.015)


def test_searched_flips_do_far_more_damage_than_random_ones(tmp_path_factory: pytest.TempPathFactory) -> None:
    session = open_session(Source(quantise_digits(tmp_path_factory.mktemp("int8")), DataFile(DATA))).session
    names = tuple(name for name, grid in session.program.grids.items() if grid.bits == 8)
    evaluator, gradient, clean = begin(session, names)

    [found] = search_bit_flips(evaluator, session.program.grids, gradient, clean, [4]).results
    drawn = draw_random_flips(evaluator, session.program.grids, 4, 20, 0)

    searched, random = found.worst["accuracy"].outcome, [trial.outcome.metrics["accuracy"] or 0.0 for trial in drawn.trials]
    assert clean.metrics["accuracy"] > 0.98
    assert (searched.metrics["accuracy"] or 0.0) < 0.3
    assert min(random) > 0.95
    losses = [trial.outcome.loss or math.inf for trial in drawn.trials]
    assert (found.worst["loss"].outcome.loss or 0.0) - clean.loss > 50 * (max(losses) - clean.loss)
