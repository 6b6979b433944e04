"""Files and requests that cannot be audited: each is refused by type, with what, where, expected, got and advice."""

import io
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from schemas import errors
from schemas.problem import build_problem
from tests.worker.audits import build_request, write_job
from worker.audit import AuditInput, measure_audit

Change = Callable[[AuditInput], AuditInput]


@dataclass(frozen=True)
class Case:
    """A way to spoil a good job, and what must be said of it."""

    name: str
    spoil: Change
    error: type[errors.FaultlineError]
    said: str


def with_model(content: Callable[[Path], bytes]) -> Change:
    def spoil(job: AuditInput) -> AuditInput:
        path = job.model_path.with_name("spoilt_model")
        path.write_bytes(content(job.model_path))
        return replace(job, model_path=path)

    return spoil


def with_onnx(build: Callable[[], onnx.ModelProto]) -> Change:
    return with_model(lambda _: build().SerializeToString())


def with_module(build: Callable[[], nn.Module], trace: bool = True) -> Change:
    def content(_: Path) -> bytes:
        buffer = io.BytesIO()
        module = build()
        with warnings.catch_warnings():
            # The tracer warns of what makes some of these models bad.
            warnings.simplefilter("ignore")
            saved = torch.jit.trace(module, torch.ones(2, 4), check_trace=False) if trace else torch.jit.script(module)
        torch.jit.save(saved, buffer)
        return buffer.getvalue()

    return with_model(content)


def with_data(content: Callable[[Path], bytes]) -> Change:
    def spoil(job: AuditInput) -> AuditInput:
        path = job.data_path.with_name("spoilt_data")
        path.write_bytes(content(job.data_path))
        return replace(job, data_path=path)

    return spoil


def with_arrays(**changed: Any) -> Change:
    def content(path: Path) -> bytes:
        buffer = io.BytesIO()
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files} | changed
        np.savez(buffer, **{name: value for name, value in arrays.items() if value is not None})
        return buffer.getvalue()

    return with_data(content)


def with_request(**fields: Any) -> Change:
    return lambda job: replace(job, request=build_request(**fields))


def linear_onnx(
    operator: str = "Gemm",
    domain: str = "",
    batch: int | str = "batch",
    elements: int = TensorProto.FLOAT,
    node_inputs: tuple[str, ...] = ("x", "w"),
) -> onnx.ModelProto:
    """Return a one-operator ONNX model on [batch, 4]."""
    weight = numpy_helper.from_array(np.ones((4, 3), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node(operator, list(node_inputs), ["y"], name="node", domain=domain)],
        "graph",
        [helper.make_tensor_value_info("x", elements, [batch, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 3])],
        [weight],
    )
    opsets = [helper.make_opsetid("", 20), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def differing_onnx() -> onnx.ModelProto:
    """Return a model one of whose inputs has a fixed batch axis."""
    model = linear_onnx("MatMul")
    model.graph.input.append(helper.make_tensor_value_info("second", TensorProto.FLOAT, [2, 4]))
    return model


def external_onnx(location: str) -> onnx.ModelProto:
    model = linear_onnx()
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location)
    return model


def pickled_state(_: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save(nn.Linear(4, 3).state_dict(), buffer)
    return buffer.getvalue()


def plain_zip(_: Path) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("readme.txt", "no model")
    return buffer.getvalue()


class TwoInputs(nn.Module):
    """A model with two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(left + right)
        return out


class Overflowing(nn.Module):
    """A model that is infinite on its data before anything is corrupted."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.exp(1e4 * (1 + self.layer(x).abs()))


CASES = [
    Case("empty model", with_model(lambda _: b""), errors.ModelUnreadable, "empty"),
    Case("random bytes", with_model(lambda _: bytes(range(256)) * 9), errors.ModelUnreadable, ""),
    Case("text as model", with_model(lambda _: b"hello, I am a model"), errors.ModelUnreadable, ""),
    Case("truncated TorchScript", with_model(lambda path: path.read_bytes()[:-400]), errors.ModelUnreadable, ""),
    Case("half a TorchScript", with_model(lambda path: path.read_bytes()[:900]), errors.ModelUnreadable, ""),
    Case("zip without a model", with_model(plain_zip), errors.AuditError, ""),
    Case("pickled state dict", with_model(pickled_state), errors.ModelRefused, ""),
    Case("truncated ONNX", with_model(lambda _: linear_onnx("MatMul").SerializeToString()[:-40]), errors.ModelUnreadable, ""),
    Case("unknown ONNX operator", with_onnx(lambda: linear_onnx("Frobnicate")), errors.UnsupportedOperator, "Frobnicate"),
    Case("custom ONNX domain", with_onnx(lambda: linear_onnx("Magic", "acme.ops")), errors.UnsupportedOperator, "Magic"),
    Case("ONNX batch axes that differ", with_onnx(differing_onnx), errors.ModelRefused, "fixed at 2"),
    Case("external data outside", with_onnx(lambda: external_onnx("../secret.bin")), errors.ModelRefused, ""),
    Case("external data absolute", with_onnx(lambda: external_onnx("/etc/hostname")), errors.ModelRefused, ""),
    Case("external data missing", with_onnx(lambda: external_onnx("weights.bin")), errors.AuditError, ""),
    Case("undefined ONNX value", with_onnx(lambda: linear_onnx("MatMul", node_inputs=("x", "nowhere"))), errors.AuditError, ""),
    Case(
        "ONNX input of another dtype",
        with_onnx(lambda: linear_onnx("MatMul", elements=TensorProto.DOUBLE)),
        errors.AuditError,
        "",
    ),
    Case("no parameters", with_module(nn.ReLU), errors.NoParameters, "no floating-point weights"),
    Case(
        "traced with dropout on",
        with_module(lambda: nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)).train()),
        errors.ModelRefused,
        "training mode",
    ),
    Case(
        "traced with batch statistics on",
        with_module(lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).train()),
        errors.ModelRefused,
        "training mode",
    ),
    Case("two inputs without names", with_module(TwoInputs, trace=False), errors.DataMismatch, "no array for model input"),
    Case("infinite before corruption", with_module(Overflowing), errors.AuditError, "non-finite"),
    Case(
        "format says ONNX",
        with_request(model={"uri": f"artifact:sha256:{'0' * 64}", "format": "onnx"}),
        errors.ModelUnreadable,
        "",
    ),
    Case("empty data file", with_data(lambda _: b""), errors.DataUnreadable, ""),
    Case("truncated data", with_data(lambda path: path.read_bytes()[:-300]), errors.DataUnreadable, ""),
    Case("data of no known format", with_data(lambda _: b"\x00\x01" * 300), errors.DataUnreadable, "format"),
    Case("pickled objects", with_arrays(inputs=np.array([{}, {}], dtype=object)), errors.DataUnreadable, ""),
    Case("text array", with_arrays(inputs=np.array(["a"] * 90)), errors.DataUnreadable, "dtype"),
    Case("labels missing", with_arrays(labels=None), errors.DataMismatch, "labels are missing"),
    Case(
        "labels named wrongly",
        with_request(data={"uri": f"artifact:sha256:{'0' * 64}", "target": "y"}),
        errors.DataMismatch,
        "labels",
    ),
    Case(
        "input named wrongly",
        with_request(data={"uri": f"artifact:sha256:{'0' * 64}", "inputs": {"pixels": "inputs"}}),
        errors.DataMismatch,
        "pixels",
    ),
    Case("lengths differ", with_arrays(labels=np.arange(5)), errors.DataMismatch, "differ in length"),
    Case("no examples", with_arrays(inputs=np.ones((0, 4), np.float32), labels=np.arange(0)), errors.DataMismatch, "no examples"),
    Case("label out of range", with_arrays(labels=np.full(90, 3)), errors.DataMismatch, "outside the model's classes"),
    Case("negative label", with_arrays(labels=np.full(90, -1)), errors.DataMismatch, "outside the model's classes"),
    Case("float labels", with_arrays(labels=np.zeros(90)), errors.DataMismatch, "class numbers"),
    Case(
        "one-hot labels", with_arrays(labels=np.eye(3, dtype=np.int64)[np.arange(90) % 3]), errors.DataMismatch, "differ in shape"
    ),
    Case("every label ignored", with_arrays(labels=np.full(90, -100)), errors.DataMismatch, "ignored"),
    Case("wrong input shape", with_arrays(inputs=np.ones((90, 5), np.float32)), errors.DataMismatch, "does not run"),
    Case("wrong input dtype", with_arrays(inputs=np.ones((90, 4), np.int64)), errors.DataMismatch, ""),
    Case("NaN in the data", with_arrays(inputs=np.full((90, 4), np.nan, np.float32)), errors.AuditError, ""),
    Case("mse with class labels", with_request(objective={"loss": "mse"}), errors.DataMismatch, "differ in shape"),
    Case("output that is not there", with_request(objective={"output": 4}), errors.DataMismatch, "output"),
    Case("output name that is not there", with_request(objective={"output": "embedding"}), errors.DataMismatch, "output"),
    Case("scope without a match", with_request(scopes=[{"name": "heads", "match": "head.*"}]), errors.ScopeError, "heads"),
    Case(
        "breaking point scope without a match",
        with_request(breaking_points=[{"limit": {"loss_change": 1.0}, "scope": "head"}]),
        errors.ScopeError,
        "head",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_is_refused_by_type_and_completely(tmp_path: Path, case: Case) -> None:
    job = case.spoil(write_job(tmp_path, scopes=["model"]))
    with pytest.raises(case.error) as caught:
        measure_audit(job, lambda *_: None)
    problem = build_problem(caught.value)
    assert case.said in problem.detail
    assert problem.errors
    assert all(item.what and item.where and item.advice and (item.expected or item.got) for item in problem.errors)
    assert "Traceback" not in problem.model_dump_json()
    assert str(tmp_path) not in problem.model_dump_json()


def test_the_table_is_long_enough() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 40
