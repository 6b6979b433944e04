"""Files made to take for ever, to nest without end, to name things twice, or to read what is not theirs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto, helper

from schemas.errors import AuditError, ModelRefused, ModelUnreadable
from tests.worker.audits import build_request
from tests.worker.engine.models.onnx.graphs import constant, initializer, node, save, write
from worker.audit import AuditInput, measure_audit
from worker.engine.models.onnx import load_onnx
from worker.engine.models.onnx.archive import TensorReader, read_model
from worker.engine.models.onnx.files import find_files
from worker.engine.models.onnx.graph import read_graph

DEEP = 10_000


def _wrap(field: int, content: bytes) -> bytes:
    """Return one length-delimited field of a protocol buffer."""
    size, length = len(content), bytearray()
    while size >= 128:
        length.append(size % 128 + 128)
        size //= 128
    return bytes([field * 8 + 2, *length, size]) + content


def test_graphs_nested_ten_thousand_deep_are_unreadable(tmp_path: Path) -> None:
    graph = b""
    for _ in range(DEEP):
        graph = _wrap(1, _wrap(5, _wrap(6, graph)))  # a graph's node, its attribute, its graph
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x08\x0a" + _wrap(7, graph) + _wrap(8, b"\x10\x14"))

    with pytest.raises(ModelUnreadable, match="does not parse"):
        load_onnx(path)


def test_types_nested_ten_thousand_deep_are_unreadable(tmp_path: Path) -> None:
    kind = b""
    for _ in range(DEEP):
        kind = _wrap(4, _wrap(1, kind))  # a sequence's type, its elements' type
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x08\x0a" + _wrap(7, _wrap(11, _wrap(1, b"x") + _wrap(2, kind))) + _wrap(8, b"\x10\x14"))

    with pytest.raises(ModelUnreadable, match="does not parse"):
        load_onnx(path)


def _make_branches(depth: int) -> Any:
    output = helper.make_tensor_value_info("o", TensorProto.FLOAT, None)
    if depth == 0:
        return helper.make_graph([node("Relu", ["x"], ["o"])], "leaf", [], [output])
    inner = _make_branches(depth - 1)
    return helper.make_graph([node("If", ["c"], ["o"], then_branch=inner, else_branch=inner)], "inner", [], [output])


def test_branches_that_double_at_each_level_are_refused(tmp_path: Path) -> None:
    nodes = [
        constant("c", np.array(True)),
        node("If", ["c"], ["y"], then_branch=_make_branches(12), else_branch=_make_branches(1)),
    ]
    path = save(tmp_path, nodes)

    with pytest.raises(ModelRefused, match="too many nodes"):
        read_graph(read_model(path), TensorReader(find_files(path)), max_nodes=1000)


def _make_endless_loop(turns: int) -> list[Any]:
    flag = helper.make_tensor_value_info("again", TensorProto.BOOL, [])
    state = helper.make_tensor_value_info("s", TensorProto.FLOAT, None)
    given = [
        helper.make_tensor_value_info("i", TensorProto.INT64, []),
        helper.make_tensor_value_info("g", TensorProto.BOOL, []),
        state,
    ]
    made = [flag, helper.make_tensor_value_info("t", TensorProto.FLOAT, None)]
    body = helper.make_graph([node("Identity", ["g"], ["again"]), node("Mul", ["s", "w"], ["t"])], "body", given, made)
    return [
        constant("limit", np.array(turns)),
        constant("go", np.array(True)),
        node("Loop", ["limit", "go", "x"], ["y"], body=body),
    ]


def test_a_loop_without_end_is_stopped(tmp_path: Path) -> None:
    path = save(tmp_path, _make_endless_loop(2**62), stored=[initializer("w", np.ones((1, 3), np.float32))])

    with pytest.raises(ModelRefused, match="does not end"):
        load_onnx(path).forward({}, {"x": torch.ones(1, 3)})


def test_an_audit_of_a_loop_without_end_is_refused_by_type(tmp_path: Path) -> None:
    path = save(tmp_path, _make_endless_loop(2**62), stored=[initializer("w", np.ones((1, 3), np.float32))])
    np.savez(tmp_path / "data.npz", inputs=np.ones((4, 3), np.float32), labels=np.zeros(4, np.int64))
    (tmp_path / "scratch").mkdir()

    with pytest.raises(ModelRefused, match="does not end"):
        measure_audit(AuditInput(build_request(), path, tmp_path / "data.npz", tmp_path / "scratch"), lambda *_: None)


@pytest.mark.parametrize(
    "nodes",
    [
        [
            constant("a", np.array(0)),
            constant("b", np.array(2**45)),
            constant("c", np.array(1)),
            node("Range", ["a", "b", "c"], ["y"]),
        ],
        [constant("a", np.array([2**20, 2**20])), node("ConstantOfShape", ["a"], ["y"], value=initializer("", np.array([1])))],
        [constant("a", np.array([7])), constant("b", np.array([2**50])), node("Tile", ["a", "b"], ["y"])],
    ],
    ids=lambda nodes: nodes[-1].op_type,
)
def test_constants_larger_than_memory_are_refused(tmp_path: Path, nodes: list[Any]) -> None:
    with pytest.raises(ModelRefused, match="reads only constants"):
        load_onnx(save(tmp_path, nodes))


def _make_function(name: str, calls: str) -> Any:
    imports = [helper.make_opsetid("local", 1), helper.make_opsetid("", 20)]
    return helper.make_function("local", name, ["a"], ["b"], [node(calls, ["a"], ["b"], domain="local")], imports)


def test_functions_that_call_each_other_are_refused(tmp_path: Path) -> None:
    functions = [_make_function("ping", "pong"), _make_function("pong", "ping")]
    path = save(tmp_path, [node("ping", ["x"], ["y"], domain="local")], functions=functions, opsets={"": 20, "local": 1})

    with pytest.raises(ModelRefused, match="nested too deeply"):
        load_onnx(path)


def _repeat_function(model: ModelProto) -> None:
    model.functions.extend([_make_function("twice", "Relu"), _make_function("twice", "Neg")])


def _repeat_input(model: ModelProto) -> None:
    model.graph.input.append(model.graph.input[0])


def _close_a_circle(model: ModelProto) -> None:
    model.graph.node[0].input[0] = model.graph.node[0].output[0]


CHANGES: dict[str, tuple[Callable[[ModelProto], None], str]] = {
    "function defined twice": (_repeat_function, "function is defined a second time"),
    "input defined twice": (_repeat_input, "graph input is defined a second time"),
    "circle": (_close_a_circle, "nothing computes"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_contradicts_itself_is_unreadable(tmp_path: Path, name: str) -> None:
    change, message = CHANGES[name]
    path = save(tmp_path, [node("Relu", ["x"], ["y"])])
    model = onnx.load(path)
    change(model)
    write(tmp_path, model)

    with pytest.raises(ModelUnreadable, match=message):
        load_onnx(path)


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "sub/../../secret.bin"])
def test_tensors_in_attributes_read_no_other_files_either(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(b"\0" * 8)
    outside = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    outside.external_data.add(key="location", value=location)
    nodes = [node("Constant", [], ["c"], value=outside), node("Add", ["x", "c"], ["y"])]

    with pytest.raises(ModelRefused, match="keeps its data"):
        load_onnx(save(folder, nodes))


@pytest.mark.parametrize("operator", ["MaxPool", "AveragePool", "Conv"])
def test_windows_of_absurd_sizes_fail_by_type(tmp_path: Path, operator: str) -> None:
    inputs = ["x", "w"] if operator == "Conv" else ["x"]
    attributes: dict[str, Any] = {"pads": [2**40] * 4, "kernel_shape": [3, 3]}
    path = save(
        tmp_path, [node(operator, inputs, ["y"], **attributes)], stored=[initializer("w", np.ones((1, 1, 3, 3), np.float32))]
    )

    with pytest.raises((AuditError, RuntimeError)):
        load_onnx(path).forward({}, {"x": torch.ones(1, 1, 4, 4)})
