"""Corruption sets on every scale: the linear optimum by brute force over supports, feasibility, and half steps."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.oracles import p_norm
from worker.engine.corruption import CorruptionSet
from worker.engine.regions import Region, build_region

NORMS = [1.0, 1.2, 1.5, 2.0, 3.0, 5.0, math.inf]
SCALES = ["absolute", "elementwise", "tensor", "rounding_int8", "rounding_fp16"]
SIZES = (3, 2)


def draw_weights(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(size, generator=generator, dtype=torch.float64) for size in SIZES]
    weights[0][1] = 0.0
    return weights


def find_optimum(weights: list[Tensor], gradient: Tensor, chosen: CorruptionSet) -> float:
    """Return the largest <a, g> over all supports: on each, Hoelder's inequality gives the maximum of every ball."""
    q = math.inf if chosen.norm == 1 else 1.0 if math.isinf(chosen.norm) else chosen.norm / (chosen.norm - 1)
    flat = torch.cat(weights)
    scale = find_scale(flat, chosen)
    best = 0.0
    for support in itertools.product([0.0, 1.0], repeat=len(flat)):
        if sum(support) <= (chosen.max_corrupted or len(flat)):
            seen = gradient * torch.tensor(support, dtype=torch.float64)
            if chosen.scale == "tensor":
                parts = zip(weights, seen.split(SIZES), strict=True)
                value = sum(chosen.epsilon * p_norm(weight, chosen.norm) * p_norm(part, q) for weight, part in parts)
            else:
                value = chosen.epsilon * p_norm(scale * seen, q)
            best = max(best, value)
    return best


def find_scale(flat: Tensor, chosen: CorruptionSet) -> Tensor:
    if chosen.scale == "elementwise":
        return flat.abs()
    if chosen.scale == "rounding_int8":
        return torch.cat([part.abs().max() / 127 / 2 * torch.ones_like(part) for part in flat.split(SIZES)])
    if chosen.scale == "rounding_fp16":
        # Half of the distance between a half-precision number and the next larger one, at |w| rounded down to the grid.
        down = torch.tensor([math.copysign(abs(float(w)), 1) for w in flat])
        spacing = [2.0 ** (max(math.floor(math.log2(float(w))), -14) - 10) if w else 2.0**-24 for w in down]
        return torch.tensor(spacing, dtype=torch.float64) / 2
    return torch.ones_like(flat)


def is_inside(a: Tensor, weights: list[Tensor], chosen: CorruptionSet, slack: float = 1e-9) -> bool:
    if int((a != 0).sum()) > (chosen.max_corrupted or len(a)):
        return False
    if chosen.scale == "tensor":
        parts = zip(a.split(SIZES), weights, strict=True)
        return all(
            p_norm(part, chosen.norm) <= chosen.epsilon * p_norm(weight, chosen.norm) * (1 + slack) for part, weight in parts
        )
    scale = find_scale(torch.cat(weights), chosen)
    if bool(a[scale == 0].any()):
        return False
    return p_norm(a[scale > 0] / scale[scale > 0], chosen.norm) <= chosen.epsilon * (1 + slack)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("n", [1, 2, 4, None])
def test_the_maximiser_is_the_optimum_over_every_support(scale: str, p: float, n: int | None) -> None:
    chosen = CorruptionSet(p, 0.3, n, scale)
    for seed in range(5):
        weights = draw_weights(seed)
        gradient = torch.randn(5, generator=torch.Generator().manual_seed(100 + seed), dtype=torch.float64)
        region = build_region(chosen, weights, [0, 0])
        form = region.maximise(gradient)
        assert form.value == pytest.approx(find_optimum(weights, gradient, chosen), rel=1e-9)
        assert float(form.corruption[:] @ gradient) == pytest.approx(form.value, rel=1e-9)
        assert is_inside(form.corruption[:], weights, chosen)
        assert region.contains(form.corruption[:])
        assert not region.contains(form.corruption[:] * 1.01)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(SCALES), st.sampled_from(NORMS), st.sampled_from([1, 3, None]), st.integers(0, 10**6))
def test_drawn_and_projected_points_are_inside_and_none_beats_the_maximiser(
    scale: str, p: float, n: int | None, seed: int
) -> None:
    chosen, weights = CorruptionSet(p, 0.7, n, scale), draw_weights(seed)
    region: Region = build_region(chosen, weights, [0, 0])
    gradient, far = torch.randn(2, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    best = region.maximise(gradient)
    for point in (region.draw(seed)[:], region.project(10 * far), region.project(1e-3 * far)):
        assert float(point @ gradient) <= best.value * (1 + 1e-9)
    for point in (region.draw(seed)[:], region.project(10 * far)):
        assert is_inside(point, weights, chosen)
        assert region.contains(point)
    inner = region.project(best.corruption[:] / 2)
    assert torch.allclose(inner, best.corruption[:] / 2, rtol=1e-12)


def test_int8_steps_differ_by_output_channel() -> None:
    weight = torch.tensor([[1.0, -2.54], [0.127, 0.0]])
    whole = build_region(CorruptionSet(math.inf, 1.0, None, "rounding_int8"), [weight], [0])
    rows = build_region(CorruptionSet(math.inf, 1.0, None, "rounding_int8_per_channel"), [weight], [0])
    columns = build_region(CorruptionSet(math.inf, 1.0, None, "rounding_int8_per_channel"), [weight], [-1])
    ones = torch.ones(4, dtype=torch.float64)
    assert whole.maximise(ones).corruption[:].tolist() == pytest.approx([0.01] * 4)
    assert rows.maximise(ones).corruption[:].tolist() == pytest.approx([0.01, 0.01, 0.0005, 0.0005])
    assert columns.maximise(ones).corruption[:].tolist() == pytest.approx([1 / 254, 0.01, 1 / 254, 0.01])


@pytest.mark.parametrize(("scale", "dtype"), [("rounding_fp16", torch.float16), ("rounding_bf16", torch.bfloat16)])
def test_rounding_to_half_precision_stays_in_its_box(scale: str, dtype: torch.dtype) -> None:
    weight = torch.randn(1000, generator=torch.Generator().manual_seed(0)) * torch.logspace(-7, 3, 1000)
    region = build_region(CorruptionSet(math.inf, 1.0, None, scale), [weight], [0])
    rounding = weight.double() - weight.to(dtype).double()
    half = region.maximise(torch.ones(1000)).corruption[:]
    assert bool((rounding.abs() <= half * (1 + 1e-12)).all())
    assert float((rounding.abs() / half).max()) > 0.9


def test_weights_without_scale_do_not_move_and_do_not_count() -> None:
    weights = [torch.tensor([0.0, 2.0, 0.0]), torch.zeros(2)]
    for scale, movable in (("elementwise", 1), ("tensor", 3), ("rounding_int8", 3), ("absolute", 5)):
        region = build_region(CorruptionSet(2.0, 0.1, None, scale), weights, [0, 0])
        assert (region.movable, region.corrupted) == (movable, movable)
        assert int((region.maximise(torch.ones(5)).corruption[:] != 0).sum()) == movable
        assert int((region.draw(1)[:] != 0).sum()) == movable
