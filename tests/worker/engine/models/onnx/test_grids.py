"""Quantised files: stored integers as weights on a grid, and gradients through rounded activations."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper

from benchmarks.bit_flips import ARTIFACTS, DATA, quantise_digits
from tests.worker.engine.models.onnx.graphs import initializer, node, save
from worker.engine.models.load import measure_parity
from worker.engine.models.onnx import load_onnx, run_reference

INT8 = np.array([[-128, -3, 0], [5, 100, 127]], np.int8)


@pytest.fixture(scope="module", params=[False, True], ids=["per tensor", "per channel"])
def quantised(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quantise_digits(tmp_path_factory.mktemp("int8"), per_channel=request.param)


def test_every_weight_of_a_quantised_file_is_a_weight_in_real_units(quantised: Path) -> None:
    program, floats = load_onnx(quantised), load_onnx(ARTIFACTS / "digits_cnn.onnx")
    stored = {entry.name: numpy_helper.to_array(entry) for entry in onnx.load(quantised).graph.initializer}

    assert set(program.weights) == set(program.grids) == {f"{name}_quantized" for name in floats.weights}
    assert not set(program.weights) & {entry.name for entry in program.skipped}
    for name, value in floats.weights.items():
        scale = stored[f"{name}_scale" if name.endswith("weight") else f"{name}_quantized_scale"]
        shape = (-1, *[1] * (value.ndim - 1))
        found, grid = program.weights[f"{name}_quantized"], program.grids[f"{name}_quantized"]
        expected = stored[f"{name}_quantized"].astype(np.float32) * scale.reshape(shape)
        np.testing.assert_array_equal(found.numpy(), expected)
        np.testing.assert_array_equal(grid.codes.numpy(), stored[f"{name}_quantized"])
        assert (grid.bits, grid.signed) == ((8, True) if name.endswith("weight") else (32, True))
        assert float((found - value).abs().max()) <= float(scale.max())
        assert program.modules[f"{name}_quantized"] == floats.modules[name]


def test_a_quantised_file_runs_as_in_the_runtime(quantised: Path) -> None:
    with np.load(DATA) as data:
        inputs = {"x": torch.from_numpy(data["inputs"])}

    assert measure_parity(quantised, load_onnx(quantised), inputs, 1) <= 1e-5


def test_our_reference_is_the_runtime_without_optimisation_but_for_rare_ties(quantised: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    with np.load(DATA) as data:
        inputs = data["inputs"][:100]
    plain = onnxruntime.InferenceSession(str(quantised), options, providers=["CPUExecutionProvider"])

    found = run_reference(quantised, {"x": torch.from_numpy(inputs)}, 1)["logits"]

    # one activation that lies between two codes to the last bit may round either way
    differs = np.abs(found.numpy() - plain.run(None, {"x": inputs})[0]).max(1) > 1e-4
    assert differs.mean() <= 0.01


def test_gradients_reach_every_quantised_weight(quantised: Path) -> None:
    program = load_onnx(quantised)
    leaves = {name: weight.clone().requires_grad_() for name, weight in program.weights.items()}
    with np.load(DATA) as data:
        inputs, labels = torch.from_numpy(data["inputs"][:50]), torch.from_numpy(data["labels"][:50])

    torch.nn.functional.cross_entropy(program.forward(leaves, {"x": inputs})["logits"], labels).backward()

    assert all(leaf.grad is not None and bool(leaf.grad.any()) for leaf in leaves.values())


@pytest.mark.parametrize(
    ("codes", "scale", "zero_point", "axis"),
    [
        (INT8, np.float32(0.3), np.int8(0), 1),
        (INT8, np.array([0.1, 0.2, 0.3], np.float32), np.array([1, -2, 3], np.int8), 1),
        (INT8.view(np.uint8), np.array([0.1, 0.7], np.float32), np.array([128, 3], np.uint8), 0),
        (INT8.view(np.uint8), np.array([0.1, 0.7], np.float32), None, -2),
        (INT8.astype(np.int32) * 10_000_019, np.array([1e-7], np.float32), np.int32(0), 1),
    ],
)
def test_grids_are_read_as_the_runtime_reads_them(
    tmp_path: Path, codes: np.ndarray, scale: Any, zero_point: Any, axis: int
) -> None:
    names = ["w", "s"] if zero_point is None else ["w", "s", "z"]
    stored = [initializer("w", codes), initializer("s", scale)] + ([] if zero_point is None else [initializer("z", zero_point)])
    nodes = [node("DequantizeLinear", names, ["real"], axis=axis), node("Mul", ["x", "real"], ["y"])]
    path = save(tmp_path, nodes, stored=stored)
    inputs = {"x": torch.ones(2, 3)}

    program = load_onnx(path)

    assert set(program.weights) == {"w"}
    assert program.weights["w"].dtype == torch.float32
    assert torch.equal(program.weights["w"], run_reference(path, inputs, 1)["y"])
    assert torch.equal(program.forward({}, inputs)["y"], program.weights["w"])
    assert program.grids["w"].signed is not (codes.dtype == np.uint8)


def test_integers_that_two_grids_read_stay_integers_and_those_that_one_reads_twice_are_one_weight(tmp_path: Path) -> None:
    nodes = [
        node("DequantizeLinear", ["shared", "s"], ["a"]),
        node("DequantizeLinear", ["shared", "s"], ["b"]),
        node("DequantizeLinear", ["torn", "s"], ["c"]),
        node("DequantizeLinear", ["torn", "t"], ["d"]),
        node("Sum", ["x", "a", "b", "c", "d"], ["y"]),
    ]
    stored = [initializer("shared", INT8), initializer("torn", INT8)]
    path = save(tmp_path, nodes, stored=[*stored, initializer("s", np.float32(0.5)), initializer("t", np.float32(0.25))])
    program, inputs = load_onnx(path), {"x": torch.randn(2, 3)}

    assert set(program.weights) == set(program.grids) == {"shared"}
    assert ("torn", "integer") in {(entry.name, entry.reason) for entry in program.skipped}
    assert torch.allclose(program.forward({}, inputs)["y"], run_reference(path, inputs, 1)["y"])
    moved = program.forward({"shared": program.weights["shared"] + 1}, inputs)["y"]
    assert torch.allclose(moved, program.forward({}, inputs)["y"] + 2)


def test_a_weight_that_is_an_output_too_stays_readable(tmp_path: Path) -> None:
    nodes = [node("DequantizeLinear", ["w", "s"], ["y_weight"]), node("Mul", ["x", "y_weight"], ["y"])]
    path = save(tmp_path, nodes, stored=[initializer("w", INT8), initializer("s", np.float32(0.5))])
    program = load_onnx(path)

    found = program.forward({"w": torch.full((2, 3), 7.0)}, {"x": torch.ones(2, 3)})

    assert found["y_weight"].tolist() == found["y"].tolist() == [[7.0] * 3] * 2


@pytest.mark.parametrize(("zero_point", "inside"), [(np.uint8(100), (-50, 77.5)), (np.int8(-28), (-50, 77.5))])
def test_rounded_activations_have_the_value_of_the_runtime_and_the_gradient_of_the_clamp(
    tmp_path: Path, zero_point: Any, inside: tuple[float, float]
) -> None:
    stored = [initializer("s", np.float32(0.5)), initializer("z", zero_point)]
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["y"])]
    path = save(tmp_path, nodes, stored=stored)
    # halves of a step lie between two codes, and the ends are passed on both sides
    x = torch.cat([torch.arange(-60, 90, 0.25), torch.randn(200) * 30]).requires_grad_()

    y = load_onnx(path).forward({}, {"x": x})["y"]
    y.sum().backward()

    assert torch.equal(y, run_reference(path, {"x": x}, 1)["y"])
    assert x.grad is not None
    assert torch.equal(x.grad, ((x >= inside[0]) & (x <= inside[1])).float())


def test_integers_that_leave_the_model_are_those_of_the_runtime(tmp_path: Path) -> None:
    stored = [initializer("s", np.array([0.1, 0.02], np.float32)), initializer("z", np.array([3, -4], np.int8))]
    path = save(tmp_path, [node("QuantizeLinear", ["x", "s", "z"], ["y_indices"], axis=1)], stored=stored)
    model = onnx.load(path)
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT8
    onnx.save(model, path)
    inputs = {"x": torch.randn(40, 2) * 4}

    found = load_onnx(path).forward({}, inputs)["y_indices"]

    assert found.dtype == torch.int8
    assert torch.equal(found, run_reference(path, inputs, 1)["y_indices"])


def test_a_cast_program_has_its_grids_in_the_new_type(tmp_path: Path) -> None:
    nodes = [node("DequantizeLinear", ["w", "s"], ["real"]), node("Mul", ["x", "real"], ["y"])]
    program = load_onnx(save(tmp_path, nodes, stored=[initializer("w", INT8), initializer("s", np.float32(0.3))]))

    cast = program.cast(torch.float64)

    assert cast.grids["w"].codes is program.grids["w"].codes
    assert cast.grids["w"].decode(cast.grids["w"].codes).dtype == cast.weights["w"].dtype == torch.float64
    assert torch.allclose(cast.weights["w"].float(), program.weights["w"])
