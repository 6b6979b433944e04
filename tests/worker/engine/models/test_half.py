"""Files in half precision: computed in float32, weights on the grid of their 16 bits, inputs as the file declares them."""

import copy
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from schemas.errors import ParityError
from tests.worker.engine.models.onnx.graphs import node, save
from worker.engine.models.load import find_tolerance, load_program, measure_parity
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


class Casts(nn.Module):
    """Convolution, normalisation, attention under a mask of the smallest number, and casts to and from 16 bits."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.head = nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x)).flatten(1)
        masked = y.masked_fill(y < -1, -60000.0)
        weighted = (masked.float().softmax(1).to(y.dtype) * y).type_as(self.head.weight)
        return self.head(weighted + torch.ones(1, dtype=self.head.weight.dtype))


ROUTES = ("trace", "script", "frozen", "pt2")
EXACT = 1e-5


def _export(folder: Path, route: str, dtype: torch.dtype) -> tuple[Casts, Path, Tensor]:
    """Write the network in half precision; return it in float32 as well."""
    network, x = Casts(), _draw(9, 2, 4).to(dtype)
    network.eval().to(dtype)
    path = folder / "model"
    if route == "pt2":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.export.save(torch.export.export(network, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)), path)
    else:
        module: Any = torch.jit.script(network) if route == "script" else torch.jit.trace(network, x)
        torch.jit.save(torch.jit.freeze(module) if route == "frozen" else module, str(path))
    return network, path, x


@HALVES
@pytest.mark.parametrize("route", ROUTES)
def test_files_of_pytorch_are_computed_in_float32_too(tmp_path: Path, route: str, dtype: torch.dtype) -> None:
    network, path, x = _export(tmp_path, route, dtype)
    program = load_program(path)
    name = program.inputs[0].name
    ours = program.forward({}, {name: x})["output"]

    assert {weight.dtype for weight in program.weights.values()} == {torch.float32} == {ours.dtype}
    assert {half.dtype for half in program.halves.values()} == {dtype}
    # The numbers are those of the stored weights in float32, far closer than 16 bits could be.
    if route != "frozen":  # which folds the normalisation, rounded to 16 bits
        wide = copy.deepcopy(network).float()
        with torch.no_grad():
            assert float((ours - wide(x.float())).abs().max()) <= EXACT
            moved = program.weights["head.weight"] + 1e-5
            wide.head.weight.copy_(moved)
            assert float((program.forward({"head.weight": moved}, {name: x})["output"] - wide(x.float())).abs().max()) <= EXACT
    # And PyTorch's own, in 16 bits, are as close as their spacing lets them be.
    difference = measure_parity(path, program, {name: x}, 1)
    assert EXACT < difference <= 4 * torch.finfo(dtype).eps < find_tolerance(program).near


@pytest.mark.parametrize("route", ROUTES)
def test_a_half_file_that_differs_by_more_than_rounding_is_refused(tmp_path: Path, route: str) -> None:
    _, path, x = _export(tmp_path, route, torch.float16)
    program = load_program(path)
    wrong = {name: weight * 1.05 for name, weight in program.weights.items()}
    with pytest.raises(ParityError, match="differs from the runtime's"):
        measure_parity(path, replace(program, weights=wrong), {program.inputs[0].name: x}, 1)


@HALVES
@pytest.mark.parametrize("route", ["script", "pt2"])
def test_a_flipped_bit_of_a_pytorch_file_is_one_of_its_sixteen(tmp_path: Path, route: str, dtype: torch.dtype) -> None:
    network, path, x = _export(tmp_path, route, dtype)
    program = load_program(path)
    stored = read_stored(program.weights, program.storage, ["head.weight"])["head.weight"]
    _, flip = stored.flip("head.weight", 5, 9)
    found = apply_flips(program.weights, program.storage, [flip])["head.weight"]
    with torch.no_grad():
        network.head.weight.view(-1).view(torch.int16)[5] ^= 1 << 9
    assert stored.bits == 16
    assert torch.equal(found, network.head.weight.float())
    expected = network.float()(x.float())
    assert torch.allclose(program.forward({"head.weight": found}, {program.inputs[0].name: x})["output"], expected, EXACT, EXACT)


def test_gradients_of_a_pytorch_file_do_not_underflow(tmp_path: Path) -> None:
    network, path, x = _export(tmp_path, "trace", torch.float16)
    program = load_program(path)
    leaves = {name: weight.clone().requires_grad_() for name, weight in program.weights.items()}
    (1e-7 * program.forward(leaves, {"x": x})["output"].square().sum()).backward()
    exact = copy.deepcopy(network).double()
    (1e-7 * exact(x.double()).square().sum()).backward()
    for name, weight in exact.named_parameters():
        grad = leaves[name].grad
        assert grad is not None
        assert weight.grad is not None
        assert torch.allclose(grad.double(), weight.grad, 1e-3, 1e-12)


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
