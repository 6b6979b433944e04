"""Files in half precision: computed in float32, weights on the grid of their 16 bits, inputs as the file declares them."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from tests.worker.engine.models.onnx.graphs import node, save
from worker.engine.models.load import load_program, measure_parity
from worker.engine.models.onnx import run_reference
from worker.engine.models.stored import apply_flips, read_stored

CODES = {torch.float16: TensorProto.FLOAT16, torch.bfloat16: TensorProto.BFLOAT16}
HALVES = pytest.mark.parametrize("dtype", CODES)


def _draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape) + shape[-1]))


def _store(name: str, value: Tensor) -> TensorProto:
    code = CODES.get(value.dtype, TensorProto.FLOAT)
    return helper.make_tensor(name, code, value.shape, value.float().flatten().tolist())


def _write(folder: Path, dtype: torch.dtype) -> Path:
    """Two layers in half precision, and one in float32 behind a cast."""
    nodes = [
        node("MatMul", ["x", "a"], ["h"]),
        node("Add", ["h", "b"], ["i"]),
        node("Relu", ["i"], ["j"]),
        node("MatMul", ["j", "c"], ["k"]),
        node("Cast", ["k"], ["l"], to=TensorProto.FLOAT),
        node("MatMul", ["l", "d"], ["m"]),
        node("Cast", ["m"], ["y"], to=CODES[dtype]),
    ]
    halves = {"a": _draw(6, 8), "b": _draw(8), "c": _draw(8, 5)}
    stored = [_store(name, value.to(dtype)) for name, value in halves.items()] + [_store("d", _draw(5, 4))]
    return save(folder, nodes, stored=stored, dtype=CODES[dtype])


@HALVES
def test_it_runs_as_in_the_runtime_from_inputs_of_either_width(tmp_path: Path, dtype: torch.dtype) -> None:
    path, x = _write(tmp_path, dtype), _draw(7, 6)
    program = load_program(path)
    expected = run_reference(path, {"x": x.to(dtype)}, 1)["y"].float()

    assert {name: weight.dtype for name, weight in program.weights.items()} == dict.fromkeys("abcd", torch.float32)
    assert {name: half.dtype for name, half in program.halves.items()} == dict.fromkeys("abc", dtype)
    assert program.inputs[0].dtype == dtype
    for given in (x.to(dtype), x):
        assert torch.allclose(program.forward({}, {"x": given})["y"], expected, 2e-3, 2e-3)
        assert measure_parity(path, program, {"x": given}, 1) <= 1e-3


@HALVES
def test_gradients_and_corruptions_are_those_of_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    program, x = load_program(_write(tmp_path, dtype)), _draw(7, 6).to(dtype)
    leaves = {name: weight.clone().requires_grad_() for name, weight in program.weights.items()}
    exact = {name: weight.double().requires_grad_() for name, weight in program.weights.items()}

    program.forward(leaves, {"x": x})["y"].square().sum().backward()
    h = torch.relu(x.double() @ exact["a"] + exact["b"])
    (h @ exact["c"] @ exact["d"]).square().sum().backward()

    for name, leaf in leaves.items():
        assert leaf.grad is not None
        assert exact[name].grad is not None
        assert torch.allclose(leaf.grad.double(), exact[name].grad, 1e-4, 1e-4)  # type: ignore[arg-type]
    moved = program.forward({"a": program.weights["a"] + 1e-5}, {"x": x})["y"] - program.forward({}, {"x": x})["y"]
    assert bool(moved.any())  # far below the spacing of 16 bits


@HALVES
@pytest.mark.parametrize(("bit", "kind"), [(0, "mantissa"), (14, "exponent"), (15, "sign")])
def test_a_flipped_bit_is_one_of_the_file(tmp_path: Path, dtype: torch.dtype, bit: int, kind: str) -> None:
    path, x = _write(tmp_path, dtype), _draw(7, 6).to(dtype)
    program = load_program(path)
    stored = read_stored(program.weights, program.storage, ["a"])["a"]
    _, flip = stored.flip("a", 11, bit)

    found = apply_flips(program.weights, program.storage, [flip])["a"]

    model = onnx.load(path)
    weight = next(entry for entry in model.graph.initializer if entry.name == "a")
    bits = numpy_helper.to_array(weight).copy().view(np.uint16)
    bits.reshape(-1)[11] ^= 1 << bit
    weight.CopyFrom(helper.make_tensor("a", CODES[dtype], bits.shape, bits.tobytes(), raw=True))
    onnx.save(model, path)
    assert (stored.bits, flip.kind) == (16, kind)
    assert found.dtype == torch.float32
    assert torch.equal(load_program(path).weights["a"].nan_to_num(), found.nan_to_num())
    if kind != "exponent":  # 16 bits overflow where float32 does not
        expected = run_reference(path, {"x": x}, 1)["y"].float()
        assert torch.allclose(program.forward({"a": found}, {"x": x})["y"], expected, 2e-3, 2e-3)


def test_integers_on_a_grid_whose_scale_is_a_half_stay_on_it(tmp_path: Path) -> None:
    codes = helper.make_tensor("w", TensorProto.INT8, [2, 3], [1, -2, 3, -4, 127, -128])
    scale = helper.make_tensor("s", TensorProto.FLOAT16, [], [0.1])
    nodes = [node("DequantizeLinear", ["w", "s"], ["real"]), node("Mul", ["x", "real"], ["y"])]
    path = save(tmp_path, nodes, stored=[codes, scale], dtype=TensorProto.FLOAT16)

    program = load_program(path)

    assert set(program.grids) == {"w"}
    assert program.halves == {}
    assert program.weights["w"].dtype == torch.float32
    assert measure_parity(path, program, {"x": torch.ones(2, 3).half()}, 1) <= 1e-3
