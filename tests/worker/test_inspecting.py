"""Inspections say what is in a file: against what onnx and torch themselves read from it."""

import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from schemas.errors import DataMismatch, ModelRefused, UnsupportedOperator
from schemas.inspection import InspectionFigures, InspectionRequest
from tests.architectures import ARCHITECTURES
from tests.architectures.exports import export_onnx
from tests.examples.artifacts import ARTIFACTS
from tests.worker.audits import DIGEST
from tests.worker.process.test_endless_models import write_loop
from tests.worker.test_refusals import write_model
from worker.inspecting import InspectionInput, inspect_model

URI = {"uri": f"artifact:sha256:{DIGEST}"}


def inspect(model: Path, data: Path | None = None, **named: str) -> InspectionFigures:
    given = {"model": URI} | ({"data": URI | {"inputs": named}} if data is not None else {})
    request = InspectionRequest.model_validate(given)
    with tempfile.TemporaryDirectory() as scratch:
        return inspect_model(InspectionInput(request, model, data, Path(scratch)), lambda *_: None)


@pytest.mark.parametrize("name", ["digits_cnn", "digits_mlp", "characters"])
def test_every_stored_tensor_is_there_with_its_role(name: str) -> None:
    found, model = inspect(ARTIFACTS / f"{name}.onnx"), onnx.load(ARTIFACTS / f"{name}.onnx")
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    module = torch.jit.load(str(ARTIFACTS / f"{name}.pt"))
    weights = [tensor for tensor in found.tensors if tensor.role == "weight"]
    assert sum(tensor.elements for tensor in weights) == sum(p.numel() for p in module.parameters())
    listed = {tensor.name: tensor for tensor in found.tensors}
    # Numbers that only one node reads are folded into it, and those of one element are not listed.
    assert {tensor for tensor, value in stored.items() if value.dtype == np.float32} <= listed.keys()
    for tensor in weights:
        assert (tensor.shape, tensor.stored) == (stored[tensor.name].shape, str(stored[tensor.name].dtype))
    assert found.opsets == {"ai.onnx": model.opset_import[0].version}
    assert sum(part.weights for part in found.components) == sum(part.weights for part in found.modules)
    assert sum(part.count for part in found.operators) <= len(model.graph.node)
    assert found.coverage.weights_supported == found.coverage.weights_total
    assert (found.unsupported, found.refusals) == ((), ())


def test_inputs_are_made_up_where_the_file_says_what_they_are() -> None:
    found = inspect(ARTIFACTS / "digits_cnn.onnx")
    assert (found.parity.example, found.parity.examples, found.parity.reason) == ("made_up", 2, None)
    assert found.parity.difference is not None
    assert found.parity.difference < 1e-5
    assert [(value.name, value.shape) for value in (*found.inputs, *found.outputs)] == [
        ("x", (None, 1, 8, 8)),
        ("logits", (2, 10)),
    ]
    assert inspect(ARTIFACTS / "characters.onnx").parity.example == "made_up", "token numbers as well"


def test_torchscript_needs_data_to_be_compared() -> None:
    alone = inspect(ARTIFACTS / "digits_cnn_unfused.pt")
    assert alone.parity.difference is None
    assert "give data" in str(alone.parity.reason)
    roles = {role: sum(tensor.role == role for tensor in alone.tensors) for role in ("running_statistic", "integer")}
    assert roles == {"running_statistic": 12, "integer": 6}
    with_data = inspect(ARTIFACTS / "digits_cnn_unfused.pt", ARTIFACTS / "digits.npz")
    assert (with_data.parity.example, with_data.parity.examples) == ("data", 16)
    assert with_data.parity.difference is not None
    assert with_data.outputs[0].shape == (16, 10)


def test_data_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", inputs=np.ones((3, 2, 8, 8), np.float32))
    with pytest.raises(DataMismatch, match="another shape"):
        inspect(ARTIFACTS / "digits_cnn.onnx", tmp_path / "d.npz")


def test_unsupported_operators_are_listed_with_what_could_be_audited(tmp_path: Path) -> None:
    def add_a_branch(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(numpy_helper.from_array(np.ones((3, 3), np.float32), "after"))
        model.graph.node.append(onnx.helper.make_node("MatMul", ["y", "after"], ["z"], name="last"))
        model.graph.output.append(onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, ["batch", 3]))

    found = inspect(write_model(tmp_path / "m.onnx", "Bend", "Bend", change=add_a_branch))
    assert [(item.what, item.got) for item in found.unsupported] == [
        ("operator acme.Bend (opset 1) is not supported", "acme.Bend in 2 nodes"),
        ("9 of 24 weights reach an output without these operators", "37.5%"),
    ]
    assert all(item.advice for item in found.unsupported)
    assert [(entry.operator, entry.domain, entry.count, len(entry.nodes)) for entry in found.missing] == [("Bend", "acme", 2, 2)]
    assert found.coverage.weights_total == 12 + 3 + 9
    assert found.coverage.weights_supported == 9, "what lies before the operator is cut off from every output"
    assert found.parity.reason == "operators are not supported"
    assert found.opsets == {"ai.onnx": 20, "acme": 1}
    assert {tensor.name for tensor in found.tensors} == {"w", "b", "after"}


def test_what_else_forbids_an_audit_is_told(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.onnx")
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, path)
    found = inspect(path)
    assert found.parity.examples == 1
    assert found.parity.difference is not None
    # Whether a fixed batch is a reason is for admission to say; it is never lost on the way.
    assert all(item.advice for item in found.refusals)


def test_a_model_that_does_not_end_is_not_said_to_be_auditable(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(write_loop())
    found = inspect(tmp_path / "m.onnx")
    assert found.parity.difference is None
    assert [item.what for item in found.refusals] == [found.parity.reason] == ["a Loop does not end"]


def test_a_file_that_must_not_be_loaded_ends_the_inspection(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(3)}, tmp_path / "m.pt")
    with pytest.raises(ModelRefused, match="checkpoint"):
        inspect(tmp_path / "m.pt")


def test_torchscript_operators_outside_the_table_end_it_too(tmp_path: Path) -> None:
    class Odd(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.geqrf(x)[0]

    torch.jit.script(Odd()).save(str(tmp_path / "m.pt"))
    with pytest.raises(UnsupportedOperator, match="geqrf"):
        inspect(tmp_path / "m.pt")


def test_several_inputs_and_outputs(tmp_path: Path) -> None:
    architecture = ARCHITECTURES["two_in_two_out"]
    found = inspect(export_onnx(architecture, architecture.build(), tmp_path / "m.onnx"))
    assert [(value.name, value.dtype) for value in found.inputs] == [("features", "float32"), ("tokens", "int64")]
    assert [value.name for value in found.outputs] == ["output_0", "output_1"]
    assert found.parity.difference is not None
