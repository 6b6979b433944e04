"""Graphs inside graphs: local functions, branches, loops, names that clash."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import FunctionProto, TensorProto, helper

from schemas.errors import ModelRefused
from tests.worker.engine.models.onnx.graphs import constant, initializer, node, save
from worker.engine.models.onnx import load_onnx, run_reference
from worker.engine.models.onnx.archive import TensorReader, read_model
from worker.engine.models.onnx.files import find_files
from worker.engine.models.onnx.graph import read_graph
from worker.engine.models.program import Program

FLOAT = TensorProto.FLOAT


def _graph(
    name: str, nodes: list[Any], outputs: list[str], inputs: list[str] | None = None, stored: list[Any] | None = None
) -> Any:
    given = [helper.make_tensor_value_info(entry, FLOAT, None) for entry in inputs or []]
    made = [helper.make_tensor_value_info(entry, FLOAT, ["width"]) for entry in outputs]
    return helper.make_graph(nodes, name, given, made, stored or [])


def _value(name: str, code: int) -> Any:
    return helper.make_tensor_value_info(name, code, [] if code != FLOAT else None)


def _run(path: Path, **inputs: torch.Tensor) -> tuple[Program, torch.Tensor]:
    program = load_onnx(path)
    found = program.forward({}, inputs)["y"]
    assert torch.allclose(found.double(), run_reference(path, inputs, threads=1)["y"].double(), 1e-5, 1e-6)
    return program, found


def _make_function() -> FunctionProto:
    """Scaled addition of a constant that the function stores, with the scale as an attribute."""
    scale = node("Constant", [], ["scale"])
    scale.attribute.add(name="value_float", ref_attr_name="factor", type=1)
    body = [
        constant("shift", np.array([1.0, 2.0, 4.0], np.float32)),
        scale,
        node("Mul", ["a", "scale"], ["t"]),
        node("Add", ["t", "shift"], ["b"]),
    ]
    return helper.make_function("local", "shifted", ["a"], ["b"], body, [helper.make_opsetid("", 20)], ["factor"])


def test_local_functions_are_inlined_and_their_constants_stored_once(tmp_path: Path) -> None:
    nodes = [
        node("shifted", ["x"], ["t"], domain="local", factor=2.0),
        node("shifted", ["t"], ["y"], domain="local", factor=3.0),
    ]

    program, found = _run(save(tmp_path, nodes, functions=[_make_function()], opsets={"": 20, "local": 1}), x=torch.ones(3))

    assert found.tolist() == [10.0, 14.0, 22.0]
    assert list(program.weights) == ["shift"]


def test_endless_functions_are_refused(tmp_path: Path) -> None:
    body = [node("again", ["a"], ["b"], domain="local")]
    endless = helper.make_function("local", "again", ["a"], ["b"], body, [helper.make_opsetid("local", 1)])
    path = save(tmp_path, [node("again", ["x"], ["y"], domain="local")], functions=[endless], opsets={"": 20, "local": 1})

    with pytest.raises(ModelRefused, match="nested too deeply"):
        load_onnx(path)


def test_functions_that_multiply_are_refused(tmp_path: Path) -> None:
    functions = []
    for level in range(20):
        inner = node(f"f{level + 1}", ["a"], ["t"], domain="local"), node(f"f{level + 1}", ["t"], ["b"], domain="local")
        functions.append(helper.make_function("local", f"f{level}", ["a"], ["b"], list(inner), [helper.make_opsetid("local", 1)]))
    last = [node("Relu", ["a"], ["b"])]
    functions.append(helper.make_function("local", "f20", ["a"], ["b"], last, [helper.make_opsetid("", 20)]))
    path = save(tmp_path, [node("f0", ["x"], ["y"], domain="local")], functions=functions, opsets={"": 20, "local": 1})

    with pytest.raises(ModelRefused, match="too many nodes"):
        read_graph(read_model(path), TensorReader(find_files(path)), max_nodes=1000)


@pytest.mark.parametrize("positive", [True, False])
def test_branches_with_weights_of_one_name_each(tmp_path: Path, positive: bool) -> None:
    branches = {
        label: _graph(label, [node("Mul", ["x", "w"], ["out"])], ["out"], stored=[initializer("w", np.array(values, np.float32))])
        for label, values in (("then_branch", [1, 2, 4]), ("else_branch", [8, 16, 32]))
    }
    nodes = [
        constant("zero", np.float32(0)),
        node("ReduceSum", ["x"], ["total"], keepdims=0),
        node("Greater", ["total", "zero"], ["positive"]),
        node("If", ["positive"], ["y"], **branches),
    ]

    program, _ = _run(save(tmp_path, nodes), x=torch.full((3,), 1.0 if positive else -1.0))

    assert {name: value.tolist() for name, value in program.weights.items()} == {"w": [1, 2, 4], "w#2": [8, 16, 32]}


def test_gradients_flow_through_loops(tmp_path: Path) -> None:
    body = helper.make_graph(
        [node("Mul", ["state", "w"], ["next"]), node("Identity", ["going"], ["still"]), node("Identity", ["next"], ["row"])],
        "body",
        [_value("turn", TensorProto.INT64), _value("going", TensorProto.BOOL), _value("state", FLOAT)],
        [_value("still", TensorProto.BOOL), _value("next", FLOAT), _value("row", FLOAT)],
    )
    stored = [
        initializer("w", np.array([2.0, 3.0], np.float32)),
        initializer("count", np.array(3)),
        initializer("yes", np.array(True)),
    ]
    path = save(tmp_path, [node("Loop", ["count", "yes", "x"], ["last", "y"], body=body)], stored=stored)
    program, found = _run(path, x=torch.ones(2))
    weight = program.weights["w"].clone().requires_grad_()

    program.forward({"w": weight}, {"x": torch.ones(2)})["y"].sum().backward()

    assert found.tolist() == [[2, 3], [4, 9], [8, 27]]
    assert weight.grad is not None
    assert weight.grad.tolist() == [1 + 2 * 2 + 3 * 4, 1 + 2 * 3 + 3 * 9]


def test_scans_walk_sequences_both_ways(tmp_path: Path) -> None:
    body = _graph(
        "body", [node("Add", ["sum", "piece"], ["more"]), node("Mul", ["more", "w"], ["row"])], ["more", "row"], ["sum", "piece"]
    )
    stored = [initializer("w", np.array([2.0, 3.0], np.float32)), initializer("start", np.zeros(2, np.float32))]
    attributes: dict[str, Any] = {
        "num_scan_inputs": 1,
        "scan_input_axes": [1],
        "scan_input_directions": [1],
        "scan_output_axes": [1],
    }

    _run(
        save(tmp_path, [node("Scan", ["start", "x"], ["last", "y"], body=body, **attributes)], stored=stored), x=torch.randn(2, 5)
    )


def test_shape_arithmetic_on_constants_is_done_once(tmp_path: Path) -> None:
    nodes = [
        constant("two", np.array([2])),
        node("Mul", ["two", "two"], ["four"]),
        node("Concat", ["two", "four"], ["shape"], axis=0),
        node("Reshape", ["x", "shape"], ["t"]),
        node("Mul", ["t", "w"], ["y"]),
    ]

    program, _ = _run(save(tmp_path, nodes, stored=[initializer("w", np.ones(4, np.float32) * 3)]), x=torch.randn(8))

    assert [step.operator for step in program.steps] == ["Reshape", "Mul"]
    assert program.constants["shape"].tolist() == [2, 4]


def test_what_depends_on_a_weight_is_never_folded(tmp_path: Path) -> None:
    nodes = [
        node("Shape", ["w"], ["shape"]),
        node("ReduceMax", ["w"], ["top"], keepdims=0),
        node("Expand", ["top", "shape"], ["y"]),
    ]

    program, _ = _run(save(tmp_path, nodes, stored=[initializer("w", np.arange(3, dtype=np.float32))]), x=torch.ones(1))

    assert program.forward({"w": torch.tensor([5.0, 6.0, 7.0])}, {})["y"].tolist() == [7, 7, 7]


def test_shapes_that_follow_the_data_are_marked(tmp_path: Path) -> None:
    nodes = [
        node("Shape", ["x"], ["size"]),
        node("Slice", ["x", "zero", "size"], ["kept"]),
        node("Slice", ["x", "zero", "count"], ["cut"]),
        node("Concat", ["kept", "cut"], ["y"], axis=0),
    ]
    path = save(tmp_path, nodes, stored=[initializer("zero", np.array([0]))], inputs={"x": FLOAT, "count": TensorProto.INT64})

    program = load_onnx(path)

    assert {step.outputs[0]: step.dynamic_shape for step in program.steps} == {
        "size": False,
        "kept": False,
        "cut": True,
        "y": False,
    }
    assert next(step for step in program.steps if step.outputs == ("size",)).shape_only


def test_a_fixed_batch_axis_shows_in_the_input(tmp_path: Path) -> None:
    info = helper.make_tensor_value_info("x", FLOAT, [1, "width", 3])
    graph = helper.make_graph([node("Relu", ["x"], ["y"])], "graph", [info], [helper.make_tensor_value_info("y", FLOAT, None)])
    path = tmp_path / "model.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString())

    (spec,) = load_onnx(path).inputs

    assert (spec.name, spec.dtype, spec.shape) == ("x", torch.float32, (1, None, 3))


def test_an_initializer_that_is_also_an_input_is_a_weight(tmp_path: Path) -> None:
    path = save(
        tmp_path,
        [node("Mul", ["x", "scale.weight"], ["y"])],
        stored=[initializer("scale.weight", np.ones(2, np.float32))],
        inputs={"x": FLOAT, "scale.weight": FLOAT},
    )

    program = load_onnx(path)

    assert [spec.name for spec in program.inputs] == ["x"]
    assert set(program.weights) == {"scale.weight"}


@pytest.mark.parametrize(
    ("nodes", "opset"),
    [
        ([node("BatchNormalization", ["x", "g", "b", "m", "v"], ["y", "mean", "variance"], training_mode=1)], 15),
        ([node("Dropout", ["x", "", "training"], ["y"])], 20),
    ],
)
def test_training_mode_is_told(tmp_path: Path, nodes: list[Any], opset: int) -> None:
    stored = [*(initializer(name, np.ones(2, np.float32)) for name in "gbmv"), initializer("training", np.array(True))]

    assert load_onnx(save(tmp_path, nodes, stored=stored, opsets={"": opset})).training


def test_dropout_that_does_not_train_is_an_identity(tmp_path: Path) -> None:
    stored = [initializer("training", np.array(False)), initializer("w", np.ones(2, np.float32))]
    nodes = [node("Dropout", ["x", "", "training"], ["t"]), node("Mul", ["t", "w"], ["y"])]

    program, found = _run(save(tmp_path, nodes, stored=stored), x=torch.ones(2))

    assert not program.training
    assert found.tolist() == [1.0, 1.0]
