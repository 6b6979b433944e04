"""Weights that the graph computes from stored tensors: those stand in the program, with the gradients of eager PyTorch."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto
from torch import Tensor, nn

from tests.worker.engine.models.onnx.graphs import initializer, node, save
from worker.engine.components import find_components
from worker.engine.models.channels import find_channel_axes
from worker.engine.models.load import load_program, measure_parity
from worker.engine.models.program import Program


class Recurrent(nn.Module):
    """Both directions of an LSTM, then a GRU, then a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.LSTM(3, 4, bidirectional=True, batch_first=True)
        self.second = nn.GRU(8, 4, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.second(self.first(x)[0])[0][:, -1])
        return logits


class FakeQuantised(nn.Module):
    """A convolution and a linear layer whose weights are rounded in the forward pass, as quantisation-aware training does."""

    steps: Tensor
    zeros: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(1, 4, 3), nn.Linear(16, 3)
        # Steps so wide that some weights lie beyond the ends of the type: they must have no gradient.
        self.register_buffer("steps", torch.full((4,), 0.0015))
        self.register_buffer("zeros", torch.zeros(4, dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        kernel = torch.fake_quantize_per_channel_affine(self.conv.weight, self.steps, self.zeros, 0, -128, 127)
        hidden = torch.relu(nn.functional.conv2d(x, kernel, self.conv.bias)).flatten(1)
        weight = torch.fake_quantize_per_tensor_affine(self.linear.weight, 0.0015, 0, -128, 127)
        return nn.functional.linear(hidden, weight, self.linear.bias)


def export(model: nn.Module, x: Tensor, path: Path, **options: Any) -> Program:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (x,), str(path), input_names=["x"], output_names=["y"], verbose=False, **options)
    return load_program(path)


def check_like_eager(program: Program, model: nn.Module, path: Path, x: Tensor, sizes: tuple[float, ...] = (0.0, 0.3)) -> None:
    """Hold weights, outputs, gradients and the effect of a corruption against the module's own."""
    parameters = dict(model.named_parameters())
    assert set(program.weights) == set(parameters)
    assert all(torch.equal(program.weights[name], value) for name, value in parameters.items())
    assert all(program.modules[name] == name.rpartition(".")[0] for name in parameters)
    assert measure_parity(path, program, {"x": x}, 1) < 1e-5
    for size in sizes:
        chance = torch.Generator().manual_seed(1)
        moved = {name: value.detach() + size * torch.randn(value.shape, generator=chance) for name, value in parameters.items()}
        leaves = {name: value.clone().requires_grad_() for name, value in moved.items()}
        found = program.forward(leaves, {"x": x})["y"]
        eager = {name: value.clone().requires_grad_() for name, value in moved.items()}
        expected = torch.func.functional_call(model, eager, (x,))
        assert torch.allclose(found, expected, atol=1e-5)
        gradients = torch.autograd.grad(found.square().sum(), list(leaves.values()))
        wanted = torch.autograd.grad(expected.square().sum(), list(eager.values()))
        assert all(torch.allclose(mine, theirs, atol=1e-4) for mine, theirs in zip(gradients, wanted, strict=True))
        assert all(bool(gradient.any()) for gradient in gradients)


ROUTES: dict[str, dict[str, Any]] = {
    "traced": {"dynamo": False, "do_constant_folding": False, "opset_version": 17},
    "exported": {"dynamo": True, "optimize": False, "external_data": False},
}


@pytest.mark.parametrize("route", ROUTES)
def test_gates_that_slices_and_concats_put_in_order_are_the_modules_own(route: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x, path = Recurrent().eval(), torch.randn(2, 3, 3), tmp_path / "model.onnx"
    program = export(model, x, path, **ROUTES[route])

    assert {"Slice", "Concat", "LSTM", "GRU"} <= {step.operator for step in program.steps}
    check_like_eager(program, model, path, x)
    kinds = find_components(program)
    assert {name: kind for name, kind in kinds.items() if kind != "recurrent"} == {"head.weight": "linear", "head.bias": "bias"}


def test_weights_that_are_rounded_in_the_forward_pass_are_the_ones_before(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x, path = FakeQuantised().eval(), torch.randn(5, 1, 4, 4), tmp_path / "model.onnx"
    with torch.no_grad():  # PyTorch lets a gradient pass up to half a step beyond the last code, we up to the code
        for weight in (model.conv.weight, model.linear.weight):
            weight.masked_fill_(((weight / 0.0015).abs() - 127.75).abs() < 1, 0.0)
    program = export(model, x, path, dynamo=False, opset_version=13)

    assert {"QuantizeLinear", "DequantizeLinear"} <= {step.operator for step in program.steps}
    assert float(model.conv.weight.detach().abs().max()) > 127 * 0.0015  # some lie beyond the end of the type
    assert not program.grids
    check_like_eager(program, model, path, x, (0.0,))
    assert find_components(program) == {
        "conv.weight": "convolution",
        "conv.bias": "bias",
        "linear.weight": "linear",
        "linear.bias": "bias",
    }
    assert find_channel_axes(program)["conv.weight"] == 0


def test_a_weight_behind_casts_and_rearrangements_is_the_stored_one(tmp_path: Path) -> None:
    stored = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float16)
    nodes = [
        node("Cast", ["w"], ["a"], to=TensorProto.FLOAT),
        node("Reshape", ["a", "shape"], ["b"]),
        node("Transpose", ["b"], ["c"], perm=[1, 0]),
        node("MatMul", ["x", "c"], ["y"]),
    ]
    path = save(tmp_path, nodes, stored=[initializer("w", stored), initializer("shape", np.array([3, 8]))])
    program, x = load_program(path), torch.randn(5, 8)
    leaf = program.weights["w"].clone().requires_grad_()

    found = program.forward({"w": leaf}, {"x": x})["y"]

    plain = torch.from_numpy(stored.astype(np.float32))
    assert torch.equal(leaf, plain)
    assert program.storage["w"].type_name == "float16"
    assert torch.allclose(found, x @ plain.reshape(3, 8).t())
    (gradient,) = torch.autograd.grad(found.sum(), leaf)
    assert torch.allclose(gradient, x.sum(0).expand(3, 8).reshape(2, 3, 4))
    assert find_components(program) == {"w": "linear"}
