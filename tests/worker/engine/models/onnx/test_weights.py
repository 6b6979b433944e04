"""Which stored tensors are weights, and what module each belongs to."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor

from tests.worker.engine.models.onnx.exports import EXPORTS, export
from tests.worker.engine.models.onnx.graphs import constant, initializer, node, save
from worker.engine.models.onnx import load_onnx
from worker.engine.models.onnx.exporter import KIND
from worker.engine.models.onnx.scopes import NAME_SCOPES, join_path

FOLDED = {("default", "bert")}
"""Exports that keep only the rows of a position table that the traced length reads."""

GENERATOR = np.random.default_rng(0)


def _random(*shape: int) -> np.ndarray:
    return GENERATOR.standard_normal(shape).astype(np.float32)


def _find_reasons(path: Path) -> dict[str, str]:
    return {entry.name: entry.reason for entry in load_onnx(path).skipped}


@pytest.mark.parametrize(("route", "name"), EXPORTS)
def test_the_weights_of_an_export_are_the_parameters_and_nothing_more(route: str, name: str) -> None:
    made = export(route, name)
    parameters = torch.cat([value.detach().flatten() for value in made.model.parameters()])
    weights = torch.cat([value.flatten() for value in made.program.weights.values()])

    stray = weights[~torch.isin(weights, parameters)]
    lost = parameters[~torch.isin(parameters, weights)]

    assert stray.numel() == 0
    assert (lost.numel() == 0) is ((route, name) not in FOLDED)


@pytest.mark.parametrize(("route", "name"), EXPORTS)
def test_a_weight_of_an_export_belongs_to_the_module_that_owns_its_values(route: str, name: str) -> None:
    made = export(route, name)
    owners: dict[str, list[Tensor]] = {}
    for key, parameter in made.model.named_parameters():
        owners.setdefault(key.rpartition(".")[0], []).append(parameter.detach().flatten())

    for weight, value in made.program.weights.items():
        found = {module for module, own in owners.items() if bool(torch.isin(value, torch.cat(own)).all())}
        if found == {"wte"}:  # the tied head is a tensor of its own in the file
            found.add("lm_head")
        if weight == "embedding_1":  # rows of the position table, which an operator of the model's own scope adds
            found = {step.name for step in made.program.steps}
        assert made.program.modules[weight] in found, weight


def test_settings_of_operators_are_no_weights(tmp_path: Path) -> None:
    path = save(
        tmp_path,
        [
            node("Conv", ["x", "w"], ["a"]),
            node("Clip", ["a", "low", "high"], ["b"]),
            node("Resize", ["b", "", "scales"], ["c"], mode="nearest"),
            node("Pad", ["c", "pads", "fill"], ["y"]),
        ],
        stored=[
            initializer("w", _random(2, 3, 1, 1)),
            initializer("low", np.float32(-3.0)),
            initializer("high", np.float32(3.0)),
            initializer("scales", np.array([1, 1, 2, 2], np.float32)),
            initializer("pads", np.array([0, 0, 0, 1, 0, 0, 0, 1])),
            initializer("fill", np.float32(0.5)),
        ],
    )

    program = load_onnx(path)

    assert set(program.weights) == {"w"}
    assert _find_reasons(path) == {**dict.fromkeys(["low", "high", "scales", "fill"], "not_a_weight"), "pads": "integer"}
    assert program.forward({}, {"x": torch.randn(1, 3, 4, 4)})["y"].shape == (1, 2, 8, 10)


def test_running_statistics_are_told_apart(tmp_path: Path) -> None:
    stored = [initializer(name, np.abs(_random(3))) for name in ("gain", "shift", "mean", "variance")]
    path = save(tmp_path, [node("BatchNormalization", ["x", "gain", "shift", "mean", "variance"], ["y"])], stored=stored)

    program = load_onnx(path)

    assert set(program.weights) == {"gain", "shift"}
    assert _find_reasons(path) == {"mean": "running_statistic", "variance": "running_statistic"}
    assert not program.training


def test_numbers_are_no_weights_but_one_element_biases_and_slopes_are(tmp_path: Path) -> None:
    nodes = [
        constant("onnx::Mul_1", np.float32(0.125)),
        constant("eps", np.array([1e-5], np.float32)),
        node("MatMul", ["x", "onnx::MatMul_7"], ["a"]),
        node("Add", ["onnx::Add_8", "a"], ["b"]),
        node("Mul", ["b", "onnx::Mul_1"], ["c"]),
        node("Add", ["c", "eps"], ["d"]),
        node("PRelu", ["d", "onnx::PRelu_9"], ["e"]),
        node("Mul", ["e", "temperature"], ["y"]),
    ]
    stored = [
        initializer("onnx::MatMul_7", _random(4, 1)),
        initializer("onnx::Add_8", _random(1)),
        initializer("onnx::PRelu_9", _random(1)),
        initializer("temperature", _random()),
    ]
    path = save(tmp_path, nodes, stored=stored)

    assert set(load_onnx(path).weights) == {"onnx::MatMul_7", "onnx::Add_8", "onnx::PRelu_9", "temperature"}
    assert _find_reasons(path) == {"onnx::Mul_1": "not_a_weight", "eps": "not_a_weight"}


def test_masks_fills_and_angles_are_no_weights(tmp_path: Path) -> None:
    angles = np.outer(np.arange(5), 1 / 7 ** np.arange(4)).astype(np.float32)
    mask = np.triu(np.full((5, 5), -100, np.float32), 1)
    nodes = [
        node("Mul", ["x", "onnx::Mul_1"], ["a"]),
        node("Mul", ["x", "onnx::Mul_2"], ["b"]),
        node("Add", ["a", "b"], ["c"]),
        node("MatMul", ["onnx::Add_3", "c"], ["d"]),
        node("Mul", ["d", "onnx::Mul_4"], ["e"]),
        node("Mul", ["e", "onnx::Mul_5"], ["y"]),
    ]
    stored = [
        initializer("onnx::Mul_1", np.cos(angles)),
        initializer("onnx::Mul_2", np.sin(angles)),
        initializer("onnx::Add_3", mask),
        initializer("onnx::Mul_4", np.ones((5, 4), np.float32)),
        initializer("onnx::Mul_5", _random(5, 4)),
    ]
    path = save(tmp_path, nodes, stored=stored)

    assert set(load_onnx(path).weights) == {"onnx::Mul_5"}


def test_fresh_gains_of_one_and_shifts_of_zero_are_weights(tmp_path: Path) -> None:
    stored = [initializer("norm.weight", np.ones(4, np.float32)), initializer("norm.bias", np.zeros(4, np.float32))]
    path = save(tmp_path, [node("LayerNormalization", ["x", "norm.weight", "norm.bias"], ["y"])], stored=stored)

    assert set(load_onnx(path).weights) == {"norm.weight", "norm.bias"}


def test_a_shared_initializer_is_one_weight_also_behind_identity_and_reshaping(tmp_path: Path) -> None:
    nodes = [
        node("Identity", ["w"], ["same"]),
        node("Transpose", ["same"], ["turned"], perm=[1, 0]),
        node("MatMul", ["x", "w"], ["a"]),
        node("MatMul", ["a", "turned"], ["y"]),
    ]
    path = save(tmp_path, nodes, stored=[initializer("w", _random(4, 4))])
    program = load_onnx(path)
    x = torch.randn(2, 4)
    weight = program.weights["w"].clone().requires_grad_()

    program.forward({"w": weight}, {"x": x})["y"].sum().backward()

    expected = program.weights["w"].clone().requires_grad_()
    (x @ expected @ expected.t()).sum().backward()
    assert set(program.weights) == {"w"}
    assert weight.grad is not None
    assert expected.grad is not None
    assert torch.allclose(weight.grad, expected.grad, atol=1e-5)


def test_what_the_exporter_declares_a_buffer_is_no_weight(tmp_path: Path) -> None:
    path = save(
        tmp_path,
        [node("Sub", ["x", "centre"], ["a"]), node("Mul", ["a", "gain"], ["y"])],
        stored=[initializer("centre", _random(4)), initializer("gain", _random(4))],
        kinds={"centre": "BUFFER", "gain": "PARAMETER"},
    )

    assert set(load_onnx(path).weights) == {"gain"}
    assert _find_reasons(path) == {"centre": "not_a_weight"}


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE])
def test_weights_keep_their_stored_type(tmp_path: Path, dtype: int) -> None:
    values = helper.make_tensor("w", dtype, [4], [0.5, -1.0, 2.0, 0.25])
    path = save(tmp_path, [node("Mul", ["x", "w"], ["y"])], stored=[values], dtype=dtype)

    program = load_onnx(path)

    assert program.weights["w"].dtype == program.inputs[0].dtype
    assert program.weights["w"].tolist() == [0.5, -1.0, 2.0, 0.25]


def test_made_up_names_take_the_scope_of_their_reader(tmp_path: Path) -> None:
    scoped = node("MatMul", ["x", "val_1"], ["a"])
    scoped.metadata_props.add(key=NAME_SCOPES, value="['', 'encoder', 'encoder.fc', 'linear']")
    nodes = [
        scoped,
        node("MatMul", ["a", "onnx::MatMul_2"], ["b"], name="/layers/layers.0/fc/MatMul"),
        node("MatMul", ["b", "onnx::MatMul_3"], ["c"], name="product"),
        node("Add", ["c", "onnx::Add_4"], ["y"], name="sum"),
    ]
    names = ["val_1", "onnx::MatMul_2", "onnx::MatMul_3"]
    path = save(
        tmp_path, nodes, stored=[*(initializer(name, _random(4, 4)) for name in names), initializer("onnx::Add_4", _random(4))]
    )

    modules = load_onnx(path).modules

    assert modules == {
        "val_1": "encoder.fc",
        "onnx::MatMul_2": "layers.0.fc",
        "onnx::MatMul_3": "product",
        "onnx::Add_4": "product",
    }


def test_paths_of_the_legacy_exporter_read_as_dotted_modules() -> None:
    assert join_path(["layer1", "layer1.0", "conv1"]) == "layer1.0.conv1"
    assert join_path(["encoder", "layers.0", "attn"]) == "encoder.layers.0.attn"


def test_the_declared_kind_is_read_from_where_the_default_exporter_writes_it() -> None:
    model = onnx.load(export("default", "residual_cnn").path)

    kinds = {note.value for entry in model.graph.value_info for note in entry.metadata_props if note.key == KIND}

    assert "PARAMETER" in kinds
