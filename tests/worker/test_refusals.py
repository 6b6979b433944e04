"""A model, data and a request that are all wrong: one answer names everything."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from schemas.errors import DataUnreadable, FaultlineError, ModelRefused, ModelUnreadable, UnsupportedOperator
from tests.examples.artifacts import ARTIFACTS
from tests.worker.audits import DIGEST, build_request
from worker.audit import AuditInput, measure_audit
from worker.engine.models.load import load_program

HELD_OUT = {"uri": f"artifact:sha256:{DIGEST}", "target": "answers"}


def write_model(path: Path, *operators: str, change: Any = None) -> Path:
    """Write Gemm, then the operators one after the other, then Softmax, on [batch, 4]."""
    names = ["h", *(f"v{place}" for place in range(len(operators)))]
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["h"], name="head")]
    nodes += [
        helper.make_node(operator, [names[place]], [names[place + 1]], name=f"odd{place}", domain="acme")
        for place, operator in enumerate(operators)
    ]
    nodes.append(helper.make_node("Softmax", [names[-1]], ["y"], name="tail"))
    floats = {"w": np.ones((4, 3), np.float32), "b": np.ones(3, np.float32)}
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(value, name) for name, value in floats.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("acme", 1)], ir_version=10)
    if change is not None:
        change(model)
    onnx.save(model, path)
    return path


def write_data(path: Path, width: int = 4, **labels: Any) -> Path:
    np.savez(path, inputs=np.ones((6, width), np.float32), **(labels or {"labels": np.arange(6) % 3}))
    return path


def refuse(job: AuditInput) -> FaultlineError:
    with pytest.raises(FaultlineError) as caught:
        measure_audit(job, lambda *_: None)
    assert all(fault.what and fault.where and fault.advice for fault in caught.value.faults)
    return caught.value


def test_model_data_and_request_are_refused_in_one_answer(tmp_path: Path) -> None:
    request = build_request(
        objective={"output": "logits"},
        scopes=[{"name": "heads", "match": "head.*"}],
        breaking_points=[{"limit": {"loss_change": 1.0}, "scope": "body"}],
        bit_flips=[{"counts": [1], "match": "tail.*"}, {"counts": [1], "kinds": ["value"]}],
        evaluate_on=HELD_OUT,
    )
    error = refuse(
        AuditInput(
            request,
            write_model(tmp_path / "m.onnx", "Bend", "Bend", "Twist"),
            write_data(tmp_path / "d.npz", width=5, labels=np.ones(6)),
            tmp_path,
            held_out_path=write_data(tmp_path / "h.npz"),
        )
    )
    assert isinstance(error, UnsupportedOperator)
    assert [(fault.what, fault.where) for fault in error.faults] == [
        ("operator acme.Bend (opset 1) is not supported", "nodes odd0, odd1"),
        ("operator acme.Twist (opset 1) is not supported", "nodes odd2"),
        ("0 of 15 weights reach an output without these operators", "/model"),
        ("scope 'heads' with pattern 'head.*' matches no weight", "/scopes"),
        ("breaking point scope 'body' matches no weight", "/scopes"),
        ("bit_flips pattern 'tail.*' matches no weight", "/scopes"),
        ("bit_flips pattern '*' matches weights without bits of these kinds", "/bit_flips"),
        ("labels must be class numbers", "/data/labels"),
        ("model input 'x' has another shape", "/data/inputs/x"),
        ("objective.output names no output of the model", "/objective/output"),
        ("the labels are missing", "/evaluate_on/target"),
    ]


def test_an_unreadable_model_does_not_hide_what_is_wrong_with_the_data(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"nothing of the kind")
    (tmp_path / "h.npz").write_bytes(b"nor this")
    request = build_request(evaluate_on=HELD_OUT)
    data = write_data(tmp_path / "d.npz", answers=np.arange(6))
    error = refuse(AuditInput(request, tmp_path / "m.onnx", data, tmp_path, held_out_path=tmp_path / "h.npz"))
    assert isinstance(error, ModelUnreadable)
    assert [fault.where for fault in error.faults] == ["/model", "/data/target", "/evaluate_on"]


def test_data_alone_keeps_its_own_class(tmp_path: Path) -> None:
    (tmp_path / "d.npz").write_bytes(b"")
    assert isinstance(
        refuse(AuditInput(build_request(), write_model(tmp_path / "m.onnx"), tmp_path / "d.npz", tmp_path)), DataUnreadable
    )


def test_what_a_file_contradicts_and_what_the_table_lacks_are_told_together(tmp_path: Path) -> None:
    def make_sparse(model: onnx.ModelProto) -> None:
        model.graph.sparse_initializer.add().values.CopyFrom(numpy_helper.from_array(np.ones(3, np.float32), "s"))

    error = refuse(
        AuditInput(
            build_request(),
            write_model(tmp_path / "m.onnx", "Bend", change=make_sparse),
            write_data(tmp_path / "d.npz"),
            tmp_path,
        )
    )
    assert isinstance(error, ModelRefused)
    assert [fault.what for fault in error.faults] == ["tensor 's' is sparse", "operator acme.Bend (opset 1) is not supported"]


def test_holes_anywhere_in_a_graph_leave_the_rest_readable(tmp_path: Path) -> None:
    # Each operator of each example in turn is made one that nobody knows.
    for path in sorted(ARTIFACTS.glob("*.onnx")):
        model = onnx.load(path)
        weights = set(load_program(path).weights)
        model.opset_import.append(helper.make_opsetid("acme", 1))
        for operator in sorted({node.op_type for node in model.graph.node if node.op_type != "Constant"}):
            changed = onnx.ModelProto()
            changed.CopyFrom(model)
            for node in changed.graph.node:
                if node.op_type == operator:
                    node.domain = "acme"
            onnx.save(changed, tmp_path / "holes.onnx")
            with pytest.raises(UnsupportedOperator, match=f"acme.{operator}") as caught:
                load_program(tmp_path / "holes.onnx")
            assert weights <= set(caught.value.partial.weights), operator  # type: ignore[attr-defined]
