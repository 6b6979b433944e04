"""Memory that runs out within the process: who notices, what is halved, what comes out."""

import ctypes
import gc
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from schemas.errors import MemoryLimit, ModelRefused
from tests.worker.engine.programs import build_program, build_session, make_step
from worker.engine.memory import Shrinking, choose_micro_batch, plan_halvings
from worker.engine.models.onnx.reference import ERRORS
from worker.engine.session import Evaluator, Session
from worker.engine.shortage import find_free_bytes, is_out_of_memory, read_data_bytes, read_wanted_bytes

MIB = 2**20
LARGE = 256 * MIB


@contextmanager
def limited_memory(more_bytes: int) -> Iterator[None]:
    """Let this process map `more_bytes` more than it has now."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what earlier tests freed and the allocator still holds would come on top
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (read_data_bytes() + more_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def build_wide(examples: int, micro_batch: int) -> Session:
    """Return a program that makes 3 mebibytes of each example, more than the allocator keeps aside for later."""
    steps = [
        make_step("mul", torch.mul, ("x", "a.w"), "h"),
        make_step("repeat", lambda h: h.repeat(1, MIB // 4), ("h",), "wide"),
        make_step("mean", lambda wide: wide.unflatten(1, (-1, 3)).mean(1), ("wide",), "y"),
    ]
    program = build_program({"a.w": torch.tensor([1.0, -2.0, 0.5])}, steps, ("y",))
    return build_session(program, examples, classes=3, micro_batch=micro_batch)


def test_the_first_pass_fails_and_the_run_goes_on_with_half() -> None:
    session, corruption = build_wide(64, 64), torch.tensor([0.1, 0.2, -0.1])
    with limited_memory(150 * MIB):
        [(outcome, gradient)] = Evaluator(session, ["a.w"]).measure_with_gradient([corruption])
        [measured] = Evaluator(session, ["a.w"]).measure([corruption])
    assert session.batch_size == 64 >> session.shrinking.halvings < 64
    smaller = build_wide(64, session.batch_size)
    [(expected, expected_gradient)] = Evaluator(smaller, ["a.w"]).measure_with_gradient([corruption])
    assert outcome == expected == measured
    assert torch.equal(gradient, expected_gradient)
    assert smaller.shrinking.halvings == 0


def test_sessions_made_from_one_share_what_was_learned() -> None:
    session = build_wide(8, 8)
    double = session.cast(torch.float64)
    double.shrinking.halve(8, MemoryLimit())
    assert session.batch_size == double.batch_size == replace(session, micro_batch=8).batch_size == 4


def test_what_is_kept_is_given_back() -> None:
    session = build_session(
        build_program({"a.w": torch.ones(3)}, [make_step("mul", torch.mul, ("x", "a.w"), "y")], ("y",)), 40, classes=3
    )
    evaluator, zero = Evaluator(session, ["a.w"]), torch.zeros(3)
    [before] = evaluator.measure([zero])
    session.shrinking.halve(session.micro_batch, MemoryLimit())
    [after] = evaluator.measure([zero])
    assert session.batch_size == 8
    assert before.loss == pytest.approx(after.loss, rel=1e-6)


def test_one_example_at_a_time_is_the_end() -> None:
    session = build_wide(2, 4)

    def fail() -> None:
        torch.empty(2**50, dtype=torch.uint8)

    with pytest.raises(MemoryLimit) as caught:
        session.run(fail)
    assert session.batch_size == 1
    assert float(caught.value.faults[0].expected.removeprefix("at least ").removesuffix(" GiB")) >= 2**20


def test_other_errors_pass_through() -> None:
    session = build_wide(2, 2)
    with pytest.raises(RuntimeError, match="size"):
        session.run(lambda: torch.ones(2) + torch.ones(3))
    assert session.shrinking.halvings == 0


def test_the_runtime_that_cannot_allocate_is_understood() -> None:
    nodes = [helper.make_node("Tile", ["x", "times"], ["wide"]), helper.make_node("ReduceMean", ["wide"], ["y"])]
    times = helper.make_tensor("times", TensorProto.INT64, [2], [1, 2**27])
    graph = helper.make_graph(
        nodes,
        "wide",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1])],
        [times],
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)])
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    with limited_memory(LARGE), pytest.raises((*ERRORS, MemoryError)) as caught:
        session.run(None, {"x": torch.ones(1, 3).numpy()})
    assert is_out_of_memory(caught.value)
    assert read_wanted_bytes(caught.value) in {0, 3 * 4 * 2**27}


def test_a_refusal_that_comes_from_a_shortage_counts_as_one() -> None:
    refusal = ModelRefused()
    refusal.__cause__ = MemoryError()
    assert is_out_of_memory(refusal)
    assert not is_out_of_memory(ModelRefused())


def test_the_free_memory_is_what_the_limit_leaves() -> None:
    with limited_memory(LARGE):
        assert 0 < find_free_bytes() <= LARGE


@pytest.mark.parametrize(("example_bytes", "chosen"), [(1, 256), (2**20, 64), (3 * 2**20, 16), (2**40, 1)])
def test_the_micro_batch_is_the_power_of_two_that_fits(example_bytes: int, chosen: int) -> None:
    assert choose_micro_batch(example_bytes, "cpu") == chosen


def test_the_plan_leaves_room_for_the_gradient_before_any_work() -> None:
    program = build_wide(1, 1).program
    with limited_memory(LARGE):
        halvings = plan_halvings(program, 8 * MIB, 64, "cpu")
        # Forward and backward activations of 8 examples at once: 128 MiB; of 16: all that there is, and the weights beside.
        assert 64 >> halvings == 8
        assert plan_halvings(program, MIB, 64, "cpu") == 0
        with pytest.raises(MemoryLimit):
            plan_halvings(program, 200 * MIB, 64, "cpu")


def test_a_session_starts_reduced_where_the_plan_says_so() -> None:
    session = replace(build_wide(8, 8), shrinking=Shrinking(2))
    assert [len(target) for _, target in session.batches()] == [2, 2, 2, 2]
