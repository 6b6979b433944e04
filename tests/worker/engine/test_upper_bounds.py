"""Upper bounds: no measured corruption exceeds them (R8), rule by rule and over whole programs, and they are not idle."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from tests.worker.engine.programs import build_mlp, build_program, build_session, make_step
from worker.engine.corruption import CorruptionSet
from worker.engine.data.dataset import Dataset
from worker.engine.layers import RULES, Call, NotCoveredError, Reach, bound_convolution_norm, bound_matrix_norm
from worker.engine.models.load import load_program
from worker.engine.models.program import Program, Step
from worker.engine.objective import Objective
from worker.engine.regions import Region, build_region
from worker.engine.session import Evaluator, Session
from worker.engine.upper_bounds import LossBounder

ARTIFACTS = Path(__file__).parents[3] / "examples" / "artifacts"


def step_of(operator: str, function: Callable[..., Any], inputs: tuple[str, ...], output: str, **attributes: Any) -> Step:
    return replace(make_step(operator, function, inputs, output), attributes=attributes)


def build_dense(sizes: tuple[int, ...], seed: int = 0, activation: str = "relu") -> Program:
    """The shared small network, under the operator names of the format."""
    program = build_mlp(sizes, seed, activation)
    return replace(program, steps=tuple(replace(step, operator=f"aten::{step.operator}") for step in program.steps))


def build_images(program: Program, examples: int = 12, classes: int = 3, size: int = 6) -> Session:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(examples, 1, size, size, generator=generator)
    return Session(program, Dataset({"x": x}, torch.randint(0, classes, (examples,), generator=generator)), Objective(), 5)


def build_residual_cnn(seed: int = 0) -> Program:
    """Grouped, strided and dilated convolutions, a residual sum, both pools, a transposed matrix and a product with a sum."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"stem.weight": (4, 1, 3, 3), "stem.bias": (4,), "group.weight": (4, 2, 3, 3), "group.bias": (4,)}
    shapes |= {"wide.weight": (4, 4, 2, 2), "fc.weight": (5, 16), "fc.bias": (5,), "head.weight": (5, 3), "head.bias": (3,)}
    weights = {name: torch.randn(shape, generator=generator) / math.prod(shape[1:]) ** 0.5 for name, shape in shapes.items()}
    steps = [
        step_of("aten::conv2d", functional.conv2d, ("x", "stem.weight", "stem.bias"), "a", padding=1),
        step_of("aten::relu", torch.relu, ("a",), "b"),
        step_of("aten::conv2d", functional.conv2d, ("b", "group.weight", "group.bias"), "c", padding=2, dilation=2, groups=2),
        step_of("aten::add", torch.add, ("b", "c"), "d"),
        step_of("aten::max_pool2d", functional.max_pool2d, ("d",), "e", kernel_size=[3, 3], stride=[2, 2], padding=1),
        step_of("aten::conv2d", functional.conv2d, ("e", "wide.weight"), "f"),
        step_of("aten::leaky_relu", functional.leaky_relu, ("f",), "g", negative_slope=0.2),
        step_of("aten::flatten", torch.flatten, ("g",), "h", start_dim=1),
        step_of("aten::t", torch.t, ("fc.weight",), "turned"),
        step_of("aten::addmm", torch.addmm, ("fc.bias", "h", "turned"), "i"),
        step_of("aten::tanh", torch.tanh, ("i",), "j"),
        step_of("MatMul", torch.matmul, ("j", "head.weight"), "k"),
        step_of("Add", torch.add, ("k", "head.bias"), "logits"),
    ]
    return build_program(weights, steps, ("logits",), (None, 1, 6, 6))


def region_of(session: Session, names: tuple[str, ...], chosen: CorruptionSet) -> Region:
    return build_region(chosen, [session.program.weights[name] for name in names], [None] * len(names))


def bound_of(session: Session, names: tuple[str, ...], chosen: CorruptionSet) -> float:
    found = LossBounder(session).bound(names, region_of(session, names, chosen))
    assert (found.status, found.reason) == ("available", None)
    assert found.value is not None
    return found.value


def find_damage(session: Session, names: tuple[str, ...], chosen: CorruptionSet, steps: int = 5) -> float:
    """The largest loss change of random corruptions and of the closed form, applied again and again."""
    evaluator = Evaluator(session, names)
    k = evaluator.layout.size
    zero = torch.zeros(k, dtype=torch.float64)
    corruption, worst, clean = zero, -math.inf, evaluator.measure([zero])[0].loss
    region = region_of(session, names, chosen)
    drawn = [region.draw(seed)[:] for seed in range(3)]
    assert clean is not None
    for outcome in evaluator.measure(drawn):
        worst = max(worst, (outcome.loss or math.inf) - clean)
    for _ in range(steps):
        ((outcome, gradient),) = evaluator.measure_with_gradient([corruption])
        worst = max(worst, (outcome.loss or math.inf) - clean)
        corruption = region.maximise(gradient).corruption[:]
    return worst


def choose_scopes(program: Program) -> list[tuple[str, ...]]:
    names = tuple(program.weights)
    return [names, names[:1], names[1:2], names[-2:], names[::2]]


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    kind=st.sampled_from(["relu", "tanh", "cnn"]),
    scope=st.integers(0, 4),
    norm=st.sampled_from([1.0, 1.5, 2.0, 3.0, math.inf]),
    n=st.sampled_from([None, 1, 3]),
    scale=st.sampled_from(["absolute", "absolute", "elementwise", "tensor"]),
    size=st.sampled_from([1e-3, 0.03, 0.3, 2.0]),
)
def test_no_corruption_does_more_than_the_bound(
    seed: int, kind: str, scope: int, norm: float, n: int | None, scale: str, size: float
) -> None:
    built = build_images(build_residual_cnn(seed)) if kind == "cnn" else build_session(build_dense((3, 5, 4, 4), seed, kind), 10)
    session = built.cast(torch.float64)
    names = choose_scopes(session.program)[scope]
    k = sum(session.program.weights[name].numel() for name in names)
    chosen = CorruptionSet(
        norm, size if norm < 2 or n == 1 or scale == "tensor" else size * (n or k) ** (1 / norm - 0.5), n, scale
    )
    assert -1e-12 <= find_damage(session, names, chosen) <= bound_of(built, names, chosen)


def bound_by_the_method(session: Session, names: tuple[str, ...], epsilon: float, norm: float) -> float:
    """Method section 7 as it is written, for a fully connected program, example by example."""
    program, total = session.program, 0.0
    layers = [(f"layer{i}.weight", f"layer{i}.bias") for i in range(len(program.weights) // 2)]
    for x, y in zip(session.dataset.inputs["x"].double(), session.dataset.target.tolist(), strict=True):
        h, e, margin, coefficients = x, 0.0, 0.0, list[float]()
        for i, (weight, bias) in enumerate(layers):
            matrix, step = program.weights[weight].double(), epsilon if weight in names else 0.0
            if i == len(layers) - 1:
                gaps = [float((matrix[j] - matrix[y]).abs().sum()) for j in range(len(matrix)) if j != y]
                margin = max(gaps) * e + 2 * step * (float(h.abs().sum()) + len(h) * e + 1)
            e = float(matrix.abs().sum(1).max()) * e + step * (float(h.abs().sum()) + len(h) * e + 1)
            grown = float(torch.linalg.svdvals(matrix)[0]) + step
            coefficients = [c * grown for c in coefficients] + [math.sqrt(float(h @ h) + 1) if step else 0.0]
            h = (matrix @ h + program.weights[bias].double()).relu()
        total += margin if math.isinf(norm) else math.sqrt(2) * epsilon * math.hypot(*coefficients)
    return total / len(session.dataset)


@pytest.mark.parametrize("norm", [2.0, math.inf])
@pytest.mark.parametrize("layers", [(0, 1, 2), (0,), (1,), (2,)])
def test_the_bound_is_at_most_that_of_the_method(norm: float, layers: tuple[int, ...]) -> None:
    session = build_session(build_dense((3, 6, 5, 4), 3), 10)
    names = tuple(f"layer{i}.{part}" for i in layers for part in ("weight", "bias"))
    for epsilon in (1e-4, 1e-2, 0.3):
        bound = bound_of(session, names, CorruptionSet(norm, epsilon))
        written = bound_by_the_method(session, names, epsilon, norm)
        assert bound <= written * (1 + 1e-7)
        # The sum over classes in place of the largest margin gains at most what one wrong class carries.
        assert bound >= 0.05 * written


def test_for_one_layer_and_one_example_the_bound_is_the_worst_there_is() -> None:
    session = build_session(build_dense((5, 4), 1), 1).cast(torch.float64)
    h, y = session.dataset.inputs["x"][0], int(session.dataset.target[0])
    weight, bias = session.program.weights["layer0.weight"], session.program.weights["layer0.bias"]
    names, epsilon = ("layer0.weight", "layer0.bias"), 0.2
    sign = torch.ones(4, 1, dtype=torch.float64).index_fill(0, torch.tensor([y]), -1.0)
    worst = (weight + epsilon * sign * h.sign()) @ h + bias + epsilon * sign.squeeze()
    rise = functional.cross_entropy(worst[None], torch.tensor([y])) - functional.cross_entropy(
        (weight @ h + bias)[None], torch.tensor([y])
    )
    assert bound_of(session, names, CorruptionSet(math.inf, epsilon)) == pytest.approx(float(rise), rel=1e-6)
    two = build_session(build_dense((5, 2), 1), 1, classes=2).cast(torch.float64)
    ball = bound_of(two, names, CorruptionSet(2.0, epsilon))
    assert ball == pytest.approx(find_damage(two, names, CorruptionSet(2.0, epsilon)), rel=1e-6)


def test_bounds_grow_with_the_set_and_vanish_with_it() -> None:
    session = build_session(build_dense((3, 5, 4), 2), 10)
    names = tuple(session.program.weights)
    sets: list[tuple[int | None, float]] = [(1, 0.01), (1, 0.1), (3, 0.1), (None, 0.1), (None, 1.0)]
    for norm in (1.0, 1.5, 2.0, 4.0, math.inf):
        values = [bound_of(session, names, CorruptionSet(norm, epsilon, n)) for n, epsilon in sets]
        assert all(a <= b * (1 + 1e-9) for a, b in itertools.pairwise(values))
    assert bound_of(session, names, CorruptionSet(2.0, 1e-12)) == pytest.approx(0.0, abs=1e-7)
    assert bound_of(session, names[:2], CorruptionSet(2.0, 0.1)) < bound_of(session, names, CorruptionSet(2.0, 0.1))


def test_weights_with_scale_zero_do_not_move() -> None:
    program = build_dense((3, 5, 4), 2)
    program.weights["layer0.bias"].zero_()
    session = build_session(program, 10)
    for scale in ("elementwise", "tensor"):
        assert bound_of(session, ("layer0.bias",), CorruptionSet(2.0, 1.0, None, scale)) == pytest.approx(0.0, abs=1e-7)
        assert bound_of(session, ("layer0.weight",), CorruptionSet(2.0, 1.0, None, scale)) > 0.1


def test_a_weight_used_twice_counts_twice() -> None:
    weights = {"w": torch.randn(4, 4, generator=torch.Generator().manual_seed(1))}
    steps = [
        make_step("aten::linear", functional.linear, ("x", "w"), "a"),
        make_step("aten::relu", torch.relu, ("a",), "b"),
        make_step("aten::linear", functional.linear, ("b", "w"), "y"),
    ]
    session = build_session(build_program(weights, steps, ("y",), (None, 4)), 10).cast(torch.float64)
    for norm, epsilon in [(2.0, 0.3), (math.inf, 0.1), (1.0, 0.5)]:
        chosen = CorruptionSet(norm, epsilon)
        assert 0 < find_damage(session, ("w",), chosen) <= bound_of(session, ("w",), chosen)


def test_the_bound_on_accuracy_holds_and_is_below_one_for_small_sets() -> None:
    session = build_session(build_dense((3, 8, 4), 2), 60).cast(torch.float64)
    names = tuple(session.program.weights)
    evaluator = Evaluator(session, names)
    gradient = evaluator.measure_with_gradient([torch.zeros(evaluator.layout.size)])[0]
    for epsilon in (0.01, 0.1, 0.5):
        chosen = CorruptionSet(2.0, epsilon)
        region = region_of(session, names, chosen)
        bound = LossBounder(session).bound(names, region).metrics["accuracy"]
        corrupted = evaluator.measure([region.maximise(gradient[1]).corruption[:]])[0]
        before, after = gradient[0].metrics["accuracy"], corrupted.metrics["accuracy"]
        assert before is not None
        assert after is not None
        assert before - after <= bound <= before + 1e-12
    tiny = LossBounder(session).bound(names, region_of(session, names, CorruptionSet(2.0, 1e-3)))
    assert tiny.metrics["accuracy"] < 0.05


MAPS: list[tuple[str, Callable[..., Any], dict[str, Any]]] = [
    ("aten::relu", torch.relu, {}),
    ("aten::leaky_relu", functional.leaky_relu, {"negative_slope": -1.5}),
    ("Elu", functional.elu, {"alpha": 2.0}),
    ("aten::gelu", functional.gelu, {}),
    ("aten::silu", functional.silu, {}),
    ("aten::hardtanh", functional.hardtanh, {}),
    ("aten::max_pool2d", functional.max_pool2d, {"kernel_size": 2, "stride": 1}),
    ("aten::max_pool2d", functional.max_pool2d, {"kernel_size": [3, 2], "stride": [2, 1], "padding": [1, 0]}),
    ("aten::max_pool2d", functional.max_pool2d, {"kernel_size": [2], "stride": [], "ceil_mode": True}),
    ("aten::max_pool2d", functional.max_pool2d, {"kernel_size": [2, 2], "stride": [2, 2], "dilation": [2, 1]}),
    ("aten::avg_pool2d", functional.avg_pool2d, {"kernel_size": 3, "stride": 1, "padding": 1, "count_include_pad": False}),
    ("aten::avg_pool2d", functional.avg_pool2d, {"kernel_size": [2, 3], "stride": [1, 2], "padding": [1, 1]}),
    ("aten::adaptive_avg_pool2d", functional.adaptive_avg_pool2d, {"output_size": [3, 3]}),
    ("aten::mean", torch.mean, {"dim": [2, 3]}),
    ("aten::flatten", torch.flatten, {"start_dim": 1}),
    ("aten::permute", torch.permute, {"dims": [0, 3, 1, 2]}),
]


def make_call(operator: str, function: Callable[..., Any], attributes: dict[str, Any], x: Tensor, reach: Reach) -> Call:
    step = step_of(operator, function, ("x",), "y", **attributes)
    return Call(step, [x], function(x, **attributes), [reach], [None], 1, 0.0, frozenset(), {})


@pytest.mark.parametrize(("operator", "function", "attributes"), MAPS)
def test_a_map_without_weights_moves_no_further_than_its_rule(
    operator: str, function: Callable[..., Any], attributes: dict[str, Any]
) -> None:
    generator = torch.Generator().manual_seed(0)
    largest = 0.0
    for trial in range(60):
        x = torch.randn(2, 1, 5, 5, generator=generator, dtype=torch.float64) * (3.0 if trial % 2 else 0.3)
        moved = torch.randn(x.shape, generator=generator, dtype=torch.float64) * 10.0 ** (trial % 5 - 2)
        if trial % 3 == 0:
            moved = functional.one_hot(torch.tensor([trial % 25, 12]), 25).view(x.shape) * (x.abs().max() + 20.0)
        norms = moved.flatten(1).norm(dim=1, keepdim=True)
        reach = RULES[operator](make_call(operator, function, attributes, x, Reach(moved.abs(), norms)))
        change = function(x + moved, **attributes) - function(x, **attributes)
        assert (change.abs() <= reach.entries * (1 + 1e-12) + 1e-12).all()
        assert (change.flatten(1).norm(dim=1) <= reach.shares[:, 0] * (1 + 1e-12)).all()
        largest = max(largest, float((change.flatten(1).norm(dim=1) / reach.shares[:, 0]).max()))
    assert largest >= 0.3


FORMS = [
    (1, 1, 1, (3, 3)),
    (2, 1, 1, (2, 3)),
    (1, 2, 1, (3, 3)),
    (1, 1, 2, (2, 2)),
    (4, 1, 1, (5, 1)),
    (1, 3, 1, (1, 1)),
]


@pytest.mark.parametrize("seed", range(6))
def test_the_norm_of_a_convolution_is_bounded_closely(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    groups, stride, dilation, kernel = [
        (1, 1, 1, (3, 3)),
        (2, 1, 1, (2, 3)),
        (1, 2, 1, (3, 3)),
        (1, 1, 2, (2, 2)),
        (4, 1, 1, (5, 1)),
        (1, 3, 1, (1, 1)),
    ][seed]
    taps = torch.randn(4, 4 // groups, *kernel, generator=generator, dtype=torch.float64)

    def convolve(x: Tensor) -> Tensor:
        return functional.conv2d(x, taps, None, stride, kernel[0], dilation, groups)

    dense = convolve(torch.eye(4 * 81, dtype=torch.float64).view(-1, 4, 9, 9)).flatten(1)
    true = float(torch.linalg.svdvals(dense)[0])
    bound = bound_convolution_norm(taps, groups)
    assert true <= bound
    assert stride == 2 or bound <= 1.3 * true
    wide = bound_convolution_norm(taps.repeat(40, 1, 1, 1), groups) if groups == 1 else math.inf
    assert wide >= math.sqrt(40) * true * (1 - 1e-9)


def test_the_cheap_bound_of_a_large_matrix_is_above_its_norm() -> None:
    for seed in range(5):
        matrix = torch.randn(20, 30, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        true = float(torch.linalg.svdvals(matrix)[0])
        assert true <= bound_matrix_norm(matrix) <= true * (1 + 1e-8)
        assert true <= bound_matrix_norm(matrix, largest=1) <= 4 * true


def refuse(steps: list[Step], weights: dict[str, Tensor]) -> str:
    session = build_session(build_program(weights, steps, (steps[-1].outputs[0],), (None, 3)), 3)
    found = LossBounder(session).bound(tuple(weights), region_of(session, tuple(weights), CorruptionSet(2.0, 0.1)))
    assert (found.status, found.value, found.metrics) == ("not_available", None, {})
    assert found.reason is not None
    return found.reason


def test_what_no_rule_covers_is_named() -> None:
    weights = {"w": torch.eye(3), "b": torch.ones(3)}
    first = make_step("Gemm", functional.linear, ("x", "w", "b"), "a")
    assert "no rule covers Sigmoid (y)" in refuse([first, make_step("Sigmoid", torch.sigmoid, ("a",), "y")], weights)
    turned = make_step("aten::t", torch.t, ("a",), "y")
    assert "aten::t" in refuse([first, turned], weights)
    mixed = step_of("aten::transpose", torch.transpose, ("a",), "y", dim0=0, dim1=1)
    assert "mixes examples" in refuse([first, mixed], weights)
    doubled = make_step("Gemm", lambda x, w, b: 2 * functional.linear(x, w) + b, ("x", "w", "b"), "y")
    assert "scales its product" in refuse([doubled], weights)
    biased = make_step("Gemm", lambda x, w, b: functional.linear(x, w) + 2 * b, ("x", "w", "b"), "y")
    assert "bias" in refuse([biased], weights)
    squared = make_step("aten::matmul", lambda a, b: a @ b.t() @ b, ("a", "a"), "y")
    assert "that the data or other weights make" in refuse([first, squared], weights)
    reversed_product = make_step("MatMul", lambda w, x: (w @ x.t()).t(), ("w", "x"), "y")
    assert "MatMul" in refuse([reversed_product], {"w": torch.eye(3)})
    approximate = step_of("aten::gelu", functional.gelu, ("a",), "y", approximate="tanh")
    assert "beyond the largest float" in refuse([first, approximate], weights)


def test_other_losses_and_low_precision_are_refused() -> None:
    session, names = build_session(build_dense((3, 4)), 5), ("layer0.weight",)
    region = region_of(session, names, CorruptionSet(2.0, 0.1))
    for objective in (Objective(loss="mse", metrics=()), Objective(output_kind="probabilities")):
        found = LossBounder(replace(session, objective=objective)).bound(names, region)
        assert found.reason == "the bound is for cross-entropy on logits"
    halves = {name: weight.half() for name, weight in session.program.weights.items()}
    half = replace(session, program=replace(session.program, weights=halves))
    assert "torch.float16" in (LossBounder(half).bound(names, region).reason or "")


def test_an_average_over_examples_and_a_pool_without_batch_are_refused() -> None:
    x = torch.randn(3, 1, 5, 5, dtype=torch.float64)
    with pytest.raises(NotCoveredError, match="mixes examples"):
        RULES["aten::mean"](
            make_call("aten::mean", torch.mean, {"dim": [0], "keepdim": True}, x, Reach(x.abs(), torch.ones(3, 1)))
        )
    pool = make_call("aten::max_pool2d", functional.max_pool2d, {"kernel_size": 2}, x[0], Reach(x[0].abs(), torch.ones(1, 1)))
    with pytest.raises(NotCoveredError, match="no batch"):
        RULES["aten::max_pool2d"](pool)


def test_labels_that_do_not_count_do_not_move_the_bound() -> None:
    session = build_session(build_dense((3, 5, 4), 2), 12)
    target = session.dataset.target.clone()
    target[6:] = -100
    short = Dataset({"x": session.dataset.inputs["x"][:6]}, target[:6])
    names = ("layer0.weight",)
    region = region_of(session, names, CorruptionSet(2.0, 0.1))
    values = [
        LossBounder(replace(session, dataset=dataset)).bound(names, region)
        for dataset in (Dataset(session.dataset.inputs, target), short)
    ]
    assert values[0].value == pytest.approx(values[1].value, rel=1e-12)
    assert values[0].metrics == pytest.approx(values[1].metrics)


@pytest.mark.parametrize("name", ["digits_mlp", "digits_cnn"])
def test_the_shipped_examples_are_covered_and_both_formats_agree(name: str, digits: Dataset) -> None:
    bounds = []
    for suffix in ("onnx", "pt"):
        program = load_program(ARTIFACTS / f"{name}.{suffix}")
        session = Session(program, Dataset({program.inputs[0].name: digits.inputs["x"]}, digits.target), Objective(), 20)
        for names, norm in [(tuple(program.weights), math.inf), (("head.weight", "head.bias"), 2.0)]:
            chosen = CorruptionSet(norm, 1e-4)
            bound = bound_of(session, names, chosen)
            assert 0 < find_damage(session.cast(torch.float64), names, chosen, 2) <= bound
            bounds.append(bound)
    assert bounds[:2] == pytest.approx(bounds[2:], rel=1e-6)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    with np.load(ARTIFACTS / "digits.npz") as stored:
        return Dataset({"x": torch.from_numpy(stored["inputs"][:40])}, torch.from_numpy(stored["labels"][:40]).long())
