"""What scopes share of the clean program, against plain runs of the whole program."""

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.worker.engine.programs import build_mlp, build_program, build_session, make_step
from worker.engine.models.clean import CleanProgram, measure_bytes
from worker.engine.models.program import Program, Step
from worker.engine.models.split import SplitProgram
from worker.engine.session import Evaluator

WIDTH = 3
OPERATORS: dict[str, Callable[..., Tensor]] = {
    "tanh": torch.tanh,
    "mul": torch.mul,
    "add": torch.add,
    "shape": lambda value: torch.tensor(value.shape, dtype=torch.float32),
    "mean": lambda value: value.mean(0),
}
ARITY = {"tanh": 1, "mul": 2, "add": 2, "shape": 1, "mean": 1}


@st.composite
def draw_programs(draw: st.DrawFn) -> Program:
    """Draw a program of random operators over the input, three weights and earlier values."""
    names = ["x", "a.w", "b.w", "c.w"]
    vectors = {"a.w", "b.w", "c.w"}
    steps: list[Step] = []
    for index in range(draw(st.integers(2, 10))):
        operator = draw(st.sampled_from(sorted(OPERATORS)))
        pool = names if operator != "shape" else [name for name in names if name not in vectors and not name.startswith("size")]
        inputs = tuple(draw(st.sampled_from(pool)) for _ in range(ARITY[operator]))
        output = f"size{index}" if operator == "shape" else f"v{index}"
        steps.append(make_step(operator, OPERATORS[operator], inputs, output, shape_only=operator == "shape"))
        if operator == "mean" or vectors.issuperset(inputs):
            vectors.add(output)
        if operator != "shape":
            names.append(output)
    steps.append(make_step("add", torch.add, ("x", names[-1]), "y"))
    weights = {name: torch.linspace(0.5, 1.5, WIDTH) + i for i, name in enumerate(("a.w", "b.w", "c.w"))}
    return build_program(weights, steps, ("y",))


@given(draw_programs(), st.sets(st.sampled_from(["a.w", "b.w", "c.w"])), st.sampled_from([0, 100, 10**6]))
def test_a_split_run_equals_a_whole_run(program: Program, corrupted: set[str], room: int) -> None:
    clean = CleanProgram(program, room)
    split = SplitProgram(clean, frozenset(corrupted))
    generator = torch.Generator().manual_seed(0)
    parameters = {name: program.weights[name] * 1.25 for name in corrupted}
    for batch, rows in enumerate((4, 4, 2)):
        inputs = {"x": torch.randn(rows, WIDTH, generator=generator)}
        for _ in range(2):
            got = split.run_corrupted(split.run_clean(batch, inputs), parameters)
            assert torch.equal(got["y"], program.forward(parameters, inputs)["y"])


def count_calls(program: Program) -> tuple[Program, Counter[str]]:
    """Return the program with every step counted."""
    calls: Counter[str] = Counter()

    def counted(step: Step) -> Step:
        def run(*values: Tensor) -> Tensor:
            calls[step.name] += 1
            result: Tensor = step.function(*values)
            return result

        return Step(step.name, step.operator, run, step.inputs, step.outputs)

    steps = [counted(step) for step in program.steps]
    return build_program(program.weights, steps, program.outputs, program.inputs[0].shape or ()), calls


def test_scopes_share_one_clean_run() -> None:
    program, calls = count_calls(build_mlp((5, 8, 7, 4)))
    session = build_session(program, examples=40, micro_batch=16)
    for names in (["layer1.weight"], ["layer2.weight"], ["layer2.bias"]):
        evaluator = Evaluator(session, names)
        evaluator.measure([torch.zeros(evaluator.layout.size)] * 2)
    # Three batches: each clean once; then 3 batches x 2 corruptions for each scope at or above the layer.
    assert calls == {"linear0": 3, "active0": 3, "linear1": 3 + 6, "active1": 3 + 6, "linear2": 3 + 18}


def test_a_clean_part_without_weights_costs_no_clean_pass() -> None:
    steps = [
        make_step("flat", lambda x: x.view(len(x), -1), ("x",), "flat"),
        make_step("mul", torch.mul, ("flat", "a.w"), "h"),
        make_step("mul", torch.mul, ("h", "b.w"), "y"),
    ]
    program, calls = count_calls(build_program({"a.w": torch.ones(3) * 2, "b.w": torch.ones(3)}, steps, ("y",)))
    Evaluator(build_session(program, examples=40, micro_batch=20, classes=3), ["a.w", "b.w"]).measure([torch.zeros(6)] * 3)
    assert calls == {"flat": 2, "h": 6, "y": 6}


def test_values_made_of_weights_alone_are_computed_once_per_input_shape() -> None:
    steps = [
        make_step("square", torch.square, ("a.w",), "squared"),
        make_step("mul", torch.mul, ("x", "squared"), "h"),
        make_step("mul", torch.mul, ("h", "b.w"), "y"),
    ]
    program, calls = count_calls(build_program({"a.w": torch.ones(3) * 2, "b.w": torch.ones(3)}, steps, ("y",)))
    session = build_session(program, examples=40, micro_batch=20, classes=3)
    Evaluator(session, ["b.w"]).measure([torch.zeros(3)] * 5)
    assert calls["squared"] == 1
    before = session.clean.find_plan({"x": torch.zeros(20, 3)}).known["squared"]
    [clean], [corrupted] = (Evaluator(session, ["a.w"]).measure([torch.full((3,), size)]) for size in (0.0, 1.0))
    assert calls["squared"] == 1 + 2 + 2
    assert clean.loss != corrupted.loss
    assert torch.equal(before, torch.full((3,), 4.0))


@pytest.mark.parametrize("room", [0, 16 * 8 * 4, 10**6])
def test_room_for_activations_does_not_change_what_is_measured(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    session = build_session(build_mlp((5, 8, 7, 4)))
    a = [torch.full((28 + 4,), 0.05)]
    expected = Evaluator(session, ["layer2.weight", "layer2.bias"]).measure(a)
    monkeypatch.setattr("worker.engine.session.SHARED_BYTES", room)
    monkeypatch.setattr("worker.engine.session.BOUNDARY_BYTES", room)
    session = build_session(build_mlp((5, 8, 7, 4)))
    evaluator = Evaluator(session, ["layer2.weight", "layer2.bias"])
    assert [evaluator.measure(a) for _ in range(2)] == [expected, expected]


def test_a_storage_counts_once() -> None:
    whole = torch.zeros(10, dtype=torch.float64)
    assert measure_bytes([whole, whole[:2], whole.view(2, 5), 3, None, torch.zeros(1)]) == 80 + 4
