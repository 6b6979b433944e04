"""Fused steps against the steps as the file has them: outputs and gradients, and where nothing may be fused."""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.architectures import ARCHITECTURES
from tests.architectures.comparison import Gradients, cast_inputs, compute_relative_error, weigh
from tests.architectures.exports import export_torchscript
from tests.worker.engine.models.onnx.exports import export
from tests.worker.engine.programs import build_program, make_step
from worker.engine.models.clean import CleanProgram, Plan
from worker.engine.models.program import Program, Step
from worker.engine.models.split import SplitProgram
from worker.engine.models.torchscript import load_torchscript

ROOM = 2**30
EXPECTED = {
    ("legacy", "vit"): {"gelu": 2, "attend": 2, "linear": 8},
    ("legacy", "gpt2"): {"gelu": 2, "attend": 2, "linear": 8},
    ("legacy", "bert"): {"gelu": 2, "attend": 2, "linear": 12},
    ("legacy", "t5_encoder"): {"gelu": 2, "attend": 2},
    ("legacy", "swin"): {"gelu": 3, "linear": 12},
    ("legacy", "llama"): {"attend": 2},
    ("default", "bert"): {"attend": 2, "linear": 12},
    ("trace", "gpt2"): {"attend": 2},
    ("trace", "bert"): {"attend": 2},
    ("trace", "resnet18"): {},
}


def load(route: str, name: str, folder: Path) -> Program:
    if route == "trace":
        architecture = ARCHITECTURES[name]
        return load_torchscript(export_torchscript(architecture, architecture.build(), folder / "model.pt", "trace"))
    return export(route, name).program


def differentiate(
    program: Program, run: Callable[[dict[str, Tensor]], Mapping[str, Tensor]]
) -> tuple[Mapping[str, Tensor], Gradients]:
    leaves = {name: weight.detach().clone().requires_grad_() for name, weight in program.weights.items()}
    outputs = run(leaves)
    weigh([outputs[name] for name in program.outputs]).backward()
    return outputs, {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}


def count_fused(plan: Plan) -> Counter[str]:
    own = {id(step) for step in plan.steps}
    return Counter(step.operator for step in plan.fused if id(step) not in own)


@pytest.mark.parametrize(("route", "name"), EXPECTED)
def test_fused_programs_agree_with_the_files_own_steps(route: str, name: str, tmp_path: Path) -> None:
    program = load(route, name, tmp_path)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        cast = program.cast(dtype)
        inputs = cast_inputs(ARCHITECTURES[name].make_example(batch=5, seed=1), dtype)
        clean = CleanProgram(cast, ROOM)
        split = SplitProgram(clean, frozenset(cast.weights))
        expected, gradients = differentiate(cast, lambda leaves: cast.forward(leaves, inputs))  # noqa: B023 - called at once
        boundary = split.run_clean(0, inputs)
        outputs, found = differentiate(cast, lambda leaves: split.run_corrupted(boundary, leaves))  # noqa: B023
        for output in cast.outputs:
            torch.testing.assert_close(outputs[output], expected[output], rtol=tolerance, atol=tolerance)
        assert found.keys() == gradients.keys()
        assert compute_relative_error(found, gradients) <= tolerance
        if dtype == torch.float32:
            assert count_fused(clean.find_plan(inputs)) == EXPECTED[route, name]


@pytest.mark.parametrize(("route", "name"), [("legacy", "gpt2"), ("trace", "bert")])
def test_one_corrupted_weight_at_a_time_agrees_too(route: str, name: str, tmp_path: Path) -> None:
    program = load(route, name, tmp_path)
    inputs = ARCHITECTURES[name].make_example(batch=5, seed=1)
    clean = CleanProgram(program, ROOM)
    for weight, value in program.weights.items():
        split = SplitProgram(clean, frozenset({weight}))
        found = split.run_corrupted(split.run_clean(0, inputs), {weight: value * 1.5})
        expected = program.forward({weight: value * 1.5}, inputs)
        for output in program.outputs:
            torch.testing.assert_close(found[output], expected[output], rtol=1e-5, atol=1e-5)


def build_attention(hide: list[Step], weights: dict[str, Tensor], constants: dict[str, Tensor]) -> Program:
    """Return softmax(hide(x w (x w)^T / 2)) x w for x [B, 2, 3, 3], `hide` taking "scores" to "hidden"."""
    steps = [
        make_step("MatMul", torch.matmul, ("x", "w"), "q"),
        make_step("Transpose", lambda value: value.transpose(-1, -2), ("q",), "k"),
        make_step("MatMul", torch.matmul, ("q", "k"), "product"),
        make_step("Div", torch.div, ("product", "two"), "scores"),
        *hide,
        Step("softmax", "Softmax", torch.softmax, ("hidden",), ("share",), {"dim": -1}),
        make_step("MatMul", torch.matmul, ("share", "q"), "y"),
    ]
    program = build_program({"w": torch.eye(3), **weights}, steps, ("y",), (None, 2, 3, 3))
    program.constants.update({"two": torch.tensor(2.0), **constants})
    return program


BELOW = torch.ones(3, 3).tril().bool()
HIDDEN = torch.tensor(-math.inf)
WHERE = make_step("Where", torch.where, ("mask", "scores", "hidden_value"), "hidden")
WHERE_ABOVE = make_step("Where", torch.where, ("mask", "hidden_value", "scores"), "hidden")
ADD = make_step("Add", torch.add, ("scores", "mask"), "hidden")
CASES = {
    "causal": (WHERE, BELOW, HIDDEN, True),
    "causal, the other way round": (WHERE_ABOVE, ~BELOW[None, None], HIDDEN, True),
    "another mask": (WHERE, torch.ones(3, 3).bool(), HIDDEN, False),
    "one mask per head": (WHERE, torch.stack([BELOW, BELOW]), HIDDEN, False),
    "a finite number": (WHERE, BELOW, torch.tensor(-1e4), False),
    "added": (ADD, torch.where(BELOW, 0.0, -math.inf), HIDDEN, True),
    "added, a row with nothing left": (ADD, torch.tensor([[0.0], [-math.inf], [0.0]]).expand(3, 3), HIDDEN, True),
}


@pytest.mark.parametrize("name", CASES)
def test_masks_hide_what_they_hid(name: str) -> None:
    step, mask, value, is_fused = CASES[name]
    program = build_attention([step], {}, {"mask": mask, "hidden_value": value})
    inputs = {"x": torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(0))}
    clean = CleanProgram(program, ROOM)
    split = SplitProgram(clean, frozenset({"w"}))
    found = split.run_corrupted(split.run_clean(0, inputs), {"w": 2 * torch.eye(3)})["y"]
    expected = program.forward({"w": 2 * torch.eye(3)}, inputs)["y"]
    torch.testing.assert_close(found, expected, equal_nan=True)
    assert expected.isnan().any() == name.endswith("nothing left")
    assert bool(count_fused(clean.find_plan(inputs))) == is_fused


def test_a_score_that_overflows_where_it_is_hidden_stays_hidden() -> None:
    program = build_attention([WHERE], {}, {"mask": BELOW, "hidden_value": HIDDEN})
    x = torch.ones(1, 2, 3, 3)
    x[:, :, 2] = 3e38
    inputs = {"x": x}
    split = SplitProgram(CleanProgram(program, ROOM), frozenset({"w"}))
    found = split.run_corrupted(split.run_clean(0, inputs), {"w": torch.eye(3)})["y"]
    assert torch.isfinite(program.forward({}, inputs)["y"][:, :, :2]).all()
    assert torch.isfinite(found[:, :, :2]).all()


def test_a_value_that_is_read_elsewhere_is_made() -> None:
    hide = [make_step("Add", torch.add, ("scores", "mask"), "hidden")]
    program = build_attention(hide, {}, {"mask": torch.zeros(3, 3)})
    also = make_step("Relu", torch.relu, ("share",), "again")
    program = build_program(program.weights, [*program.steps, also], ("y", "again"), (None, 2, 3, 3))
    program.constants.update({"two": torch.tensor(2.0), "mask": torch.zeros(3, 3)})
    inputs = {"x": torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(0))}
    clean = CleanProgram(program, ROOM)
    split = SplitProgram(clean, frozenset({"w"}))
    assert not count_fused(clean.find_plan(inputs))
    assert torch.equal(
        split.run_corrupted(split.run_clean(0, inputs), program.weights)["again"], program.forward({}, inputs)["again"]
    )


def mean(value: Tensor, *axes: Tensor, **given: Any) -> Tensor:
    chosen = [int(axis) for axis in axes] or [*given.get("dim", given.get("axes", ()))]
    return value.mean(chosen, keepdim=bool(given.get("keepdim", given.get("keepdims", True))))


def make_mean(of: str, output: str, spelling: str, axis: int) -> Step:
    if spelling == "axes as input":
        return Step(output, "ReduceMean", mean, (of, "axis"), (output,), {"keepdims": 1})
    given = {"axes": (axis,)} if spelling == "axes as attribute" else {"dim": [axis], "keepdim": True}
    return Step(output, "ReduceMean" if "axes" in given else "aten::mean", mean, (of,), (output,), given)


SQUARES = {
    "pow": make_step("Pow", torch.pow, ("centred", "two"), "square"),
    "mul": make_step("Mul", torch.mul, ("centred", "centred"), "square"),
    "exponent": Step("square", "aten::pow", torch.pow, ("centred",), ("square",), {"exponent": 2}),
}
QUOTIENTS = {
    "div": [make_step("Sqrt", torch.sqrt, ("spread",), "root"), make_step("Div", torch.div, ("centred", "root"), "normal")],
    "rsqrt": [make_step("aten::rsqrt", torch.rsqrt, ("spread",), "inverse")],
    "reciprocal": [
        make_step("Sqrt", torch.sqrt, ("spread",), "root"),
        make_step("Reciprocal", torch.reciprocal, ("root",), "inverse"),
    ],
}


def build_normalisation(spelling: str, square: str, quotient: str, axis: int = -1) -> Program:
    times = [] if quotient == "div" else [make_step("Mul", torch.mul, ("inverse", "centred"), "normal")]
    steps = [
        make_mean("x", "mean", spelling, axis),
        make_step("Sub", torch.sub, ("x", "mean"), "centred"),
        SQUARES[square],
        make_mean("square", "variance", spelling, axis),
        make_step("Add", torch.add, ("variance", "epsilon"), "spread"),
        *QUOTIENTS[quotient],
        *times,
        make_step("Mul", torch.mul, ("gain", "normal"), "scaled"),
        make_step("Add", torch.add, ("scaled", "shift"), "y"),
    ]
    weights = {"gain": torch.linspace(0.5, 2, 6), "shift": torch.linspace(-1, 1, 6)}
    program = build_program(weights, steps, ("y",), (None, 6, 6))
    program.constants.update({"axis": torch.tensor([axis]), "epsilon": torch.tensor(1e-3), "two": torch.tensor(2.0)})
    return program


def check_fused(program: Program, expected: dict[str, int], tolerance: float = 1e-5) -> None:
    inputs = {"x": 3 * torch.randn(4, 6, 6, generator=torch.Generator().manual_seed(0))}
    clean = CleanProgram(program, ROOM)
    split = SplitProgram(clean, frozenset(program.weights))
    boundary = split.run_clean(0, inputs)
    outputs, gradients = differentiate(program, lambda leaves: program.forward(leaves, inputs))
    fused, found = differentiate(program, lambda leaves: split.run_corrupted(boundary, leaves))
    torch.testing.assert_close(fused["y"], outputs["y"], rtol=tolerance, atol=tolerance)
    assert compute_relative_error(found, gradients) <= tolerance
    assert count_fused(clean.find_plan(inputs)) == expected


@pytest.mark.parametrize("spelling", ["axes as input", "axes as attribute", "aten"])
@pytest.mark.parametrize(("square", "quotient"), [("pow", "div"), ("mul", "rsqrt"), ("exponent", "reciprocal")])
def test_layer_normalisation_in_every_spelling(spelling: str, square: str, quotient: str) -> None:
    check_fused(build_normalisation(spelling, square, quotient), {"layer_norm": 1})


@pytest.mark.parametrize("spelling", ["axes as input", "axes as attribute", "aten"])
def test_normalisation_of_another_axis_is_left_alone(spelling: str) -> None:
    check_fused(build_normalisation(spelling, "pow", "div", axis=1), {})


def build_gelu(kind: str, last: int, half: float = 0.5) -> Program:
    """Return GELU after a scale, its three factors multiplied with the factor number `last` at the end."""
    erf = [make_step("Div", torch.div, ("v", "root"), "u"), make_step("Erf", torch.erf, ("u",), "f")]
    tanh = [
        make_step("Mul", torch.mul, ("v", "v"), "v2"),
        make_step("Mul", torch.mul, ("v2", "v"), "v3"),
        make_step("Mul", torch.mul, ("small", "v3"), "s3"),
        make_step("Add", torch.add, ("s3", "v"), "sum"),
        make_step("Mul", torch.mul, ("sum", "slope"), "u"),
        make_step("Tanh", torch.tanh, ("u",), "f"),
    ]
    factors = ["v", "gate", "half"]
    first, second = (name for index, name in enumerate(factors) if index != last)
    steps = [
        make_step("Mul", torch.mul, ("x", "w"), "v"),
        *(erf if kind == "erf" else tanh),
        make_step("Add", torch.add, ("f", "one"), "gate"),
        make_step("Mul", torch.mul, (second, first), "pair"),
        make_step("Mul", torch.mul, ("pair", factors[last]), "y"),
    ]
    program = build_program({"w": torch.linspace(0.5, 2, 6)}, steps, ("y",), (None, 6, 6))
    numbers = {"root": math.sqrt(2), "one": 1.0, "half": half, "small": 0.044715, "slope": math.sqrt(2 / math.pi)}
    program.constants.update({name: torch.tensor(number) for name, number in numbers.items()})
    return program


@pytest.mark.parametrize("kind", ["erf", "tanh"])
@pytest.mark.parametrize("last", [0, 1, 2])
def test_gelu_in_every_order_of_its_factors(kind: str, last: int) -> None:
    program = build_gelu(kind, last)
    check_fused(program, {"gelu": 1})
    x = torch.linspace(-3, 3, 6).expand(1, 6, 6)
    expected = functional.gelu(x * program.weights["w"], approximate="none" if kind == "erf" else "tanh")
    torch.testing.assert_close(program.forward({}, {"x": x})["y"], expected, rtol=1e-5, atol=1e-6)


def test_numbers_that_are_not_those_of_gelu_are_left_alone() -> None:
    check_fused(build_gelu("erf", 2, half=0.51), {})


def take(value: Tensor, start: Tensor, end: Tensor, axis: Tensor) -> Tensor:
    return value.narrow(int(axis), int(start), int(end) - int(start))


def squeeze(value: Tensor, axis: Tensor) -> Tensor:
    return value.squeeze(int(axis))


@pytest.mark.parametrize(("start", "end", "axis", "squeezed", "expected"), [(2, 3, 1, 1, {"select": 1}), (0, 6, 1, 1, {})])
def test_one_entry_along_an_axis(start: int, end: int, axis: int, squeezed: int, expected: dict[str, int]) -> None:
    steps = [
        make_step("Mul", torch.mul, ("x", "w"), "v"),
        make_step("Slice", take, ("v", "start", "end", "axis"), "cut"),
        make_step("Squeeze", squeeze, ("cut", "squeezed"), "y"),
    ]
    program = build_program({"w": torch.linspace(0.5, 2, 6)}, steps, ("y",), (None, 6, 6))
    numbers = {"start": start, "end": end, "axis": axis, "squeezed": squeezed}
    program.constants.update({name: torch.tensor([number]) for name, number in numbers.items()})
    check_fused(program, expected)


@pytest.mark.parametrize(("flat", "shape", "expected"), [([-1, 3, 6], [4, 2, 6, 3], 1), ([-1, 6, 3], [4, 2, 6, 3], 0)])
def test_the_last_two_axes_change_places(flat: list[int], shape: list[int], expected: int) -> None:
    steps = [
        make_step("Mul", torch.mul, ("x", "w"), "v"),
        make_step("Reshape", lambda value, sizes: value.reshape(sizes.tolist()), ("v", "flat"), "flattened"),
        Step("turned", "Transpose", lambda value, perm: value.permute(perm), ("flattened",), ("turned",), {"perm": (0, 2, 1)}),
        make_step("Reshape", lambda value, sizes: value.reshape(sizes.tolist()), ("turned", "shape"), "y"),
    ]
    program = build_program({"w": torch.linspace(0.5, 2, 6)}, steps, ("y",), (None, 6, 6))
    program.constants.update({"flat": torch.tensor(flat), "shape": torch.tensor(shape)})
    check_fused(program, {"transpose": 1} if expected else {})
