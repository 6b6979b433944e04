"""Files quantised by torch.ao: figures of PyTorch's own operators, gradients of its fake quantisation."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.ao.quantization import QConfigMapping, default_dynamic_qconfig, get_default_qconfig_mapping
from torch.ao.quantization import quantize_fx as fx

from schemas.errors import DataMismatch, ModelUnreadable, UnsupportedOperator
from tests.worker.engine.models.pt2.conftest import Export
from tests.worker.engine.models.torchscript.archives import find_name, read_entries, write_entries
from worker.engine.models.load import load_program, measure_parity
from worker.engine.models.pt2 import load_pt2, run_reference
from worker.engine.models.stored import apply_flips, read_stored

OPERATORS: Any = torch.ops.quantized_decomposed
X = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Convolves(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.pool, self.fc = nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), nn.Linear(36, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.conv(x).relu()).flatten(1))


def quantise(network: nn.Module, mapping: Any, example: Tensor) -> nn.Module:
    """Return the network quantised by torch.ao, in the form that is exported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepared = fx.prepare_fx(network.eval(), mapping, (example,))
        prepared(example)
        made: nn.Module = fx._convert_to_reference_decomposed_fx(prepared)
    return made


def test_a_static_file_is_computed_as_pytorch_does(export: Export) -> None:
    network = quantise(Convolves(), get_default_qconfig_mapping("x86"), X)
    path = export(network, X)
    program = load_program(path)
    assert program.rounds
    assert set(program.weights) == {"conv.weight", "conv.bias", "fc.weight", "fc.bias"}
    assert measure_parity(path, program, {"x": X}, 1) <= 1e-6
    assert torch.allclose(program.forward({}, {"x": X})["output"], network(X), 1e-6, 1e-6)
    # Every output stands on the grid of the last rounding.
    values = program.forward({}, {"x": X})["output"].unique()
    steps = values.diff()
    assert torch.allclose(steps / steps.min(), (steps / steps.min()).round(), atol=1e-3)


class Fake(nn.Module):
    """Two rounded layers, with the grids as numbers; by PyTorch's own fake quantisation where `fake`."""

    def __init__(self, *, fake: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.head, self.fake = nn.Linear(6, 5), nn.Linear(5, 3), fake
        self.scales: Tensor
        self.zeros: Tensor
        self.register_buffer("scales", torch.linspace(0.005, 0.01, 5))
        self.register_buffer("zeros", torch.zeros(5, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        if self.fake:
            x = torch.fake_quantize_per_tensor_affine(x, 0.02, 3, -128, 127)
            weight = torch.fake_quantize_per_channel_affine(self.fc.weight, self.scales, self.zeros.float(), 0, -60, 60)
        else:
            codes = OPERATORS.quantize_per_tensor(x, 0.02, 3, -128, 127, torch.int8)
            x = OPERATORS.dequantize_per_tensor(codes, 0.02, 3, -128, 127, torch.int8)
            given = (self.scales, self.zeros, 0, -60, 60, torch.int8)
            weight = OPERATORS.dequantize_per_channel(OPERATORS.quantize_per_channel(self.fc.weight, *given), *given)
        return self.head(nn.functional.linear(x, weight, self.fc.bias).relu())


def test_the_gradient_passes_as_through_fake_quantisation(export: Export) -> None:
    x = 2 * torch.randn(9, 6, generator=torch.Generator().manual_seed(1))  # some beyond the ends
    program = load_pt2(export(Fake(fake=False), x))
    leaves = {name: weight.clone().requires_grad_() for name, weight in program.weights.items()}
    oracle = Fake(fake=True)
    expected = oracle(x)
    found = program.forward(leaves, {"x": x})["output"]
    assert torch.allclose(found, expected, 1e-6, 1e-6)
    slopes = torch.autograd.grad(found.square().sum(), list(leaves.values()))
    wanted = torch.autograd.grad(expected.square().sum(), [oracle.get_parameter(name) for name in leaves])
    # What rounding brings back inside the ends passes there, and not here: the gradient is that of the clamp.
    beyond = (oracle.fc.weight / oracle.scales[:, None]).abs() - 60
    for name, ours, theirs in zip(leaves, slopes, wanted, strict=True):
        inside = (beyond <= 0) | (beyond > 0.5) if name == "fc.weight" else torch.ones_like(ours, dtype=torch.bool)
        assert torch.allclose(ours[inside], theirs[inside], 1e-5, 1e-6)
    assert any(bool((slope == 0).any()) and bool((slope != 0).any()) for slope in slopes)


def test_a_dynamic_file_finds_its_grid_in_each_batch(export: Export) -> None:
    network = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    x = torch.randn(9, 6, generator=torch.Generator().manual_seed(2))
    made = quantise(network, QConfigMapping().set_global(default_dynamic_qconfig), x)
    path = export(made, x)
    program = load_program(path)
    (spec,) = program.inputs
    assert program.rounds
    for rows in (9, 4):
        assert torch.allclose(program.forward({}, {spec.name: x[:rows]})["output"], made(x[:rows]), 1e-5, 1e-5)
    assert measure_parity(path, program, {spec.name: x}, 1) <= 1e-5


class Stored(nn.Module):
    """Weights that are stored as integers, as a convertor leaves them when it has folded the rounding."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.codes: Tensor
        self.scales: Tensor
        self.whole: Tensor
        self.register_buffer("codes", torch.randint(-127, 128, (5, 6), generator=generator, dtype=torch.int8))
        self.register_buffer("scales", torch.linspace(0.005, 0.01, 5))
        self.register_buffer("zeros", torch.arange(5))
        self.register_buffer("whole", torch.randint(0, 256, (3, 5), generator=generator, dtype=torch.uint8))
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        first = OPERATORS.dequantize_per_channel(self.codes, self.scales, self.zeros, 0, -127, 127, torch.int8)
        second = OPERATORS.dequantize_per_tensor(self.whole, 0.01, 128, 0, 255, torch.uint8)
        return nn.functional.linear(nn.functional.linear(x, first).relu(), second, self.bias)


def test_stored_integers_are_weights_in_real_units_on_their_own_grid(export: Export) -> None:
    network, x = Stored(), torch.randn(9, 6, generator=torch.Generator().manual_seed(3))
    path = export(network, x)
    program = load_program(path)
    real = (network.codes.float() - torch.arange(5.0)[:, None]) * network.scales[:, None]
    assert set(program.weights) == {"bias", "codes", "whole"}
    assert torch.allclose(program.weights["codes"], real, 1e-6, 0)
    assert torch.allclose(program.weights["whole"], (network.whole.float() - 128) * 0.01, 1e-6, 0)
    assert {entry.name: entry.reason for entry in program.skipped} == {"scales": "not_a_weight", "zeros": "integer"}
    assert torch.allclose(program.forward({}, {"x": x})["output"], network(x), 1e-5, 1e-5)
    assert measure_parity(path, program, {"x": x}, 1) <= 1e-5
    moved = program.weights["codes"] + 1e-4  # far below a step
    assert bool((program.forward({"codes": moved}, {"x": x})["output"] != program.forward({}, {"x": x})["output"]).any())

    stored = read_stored(program.weights, program.storage, ["codes", "whole"])
    assert {name: entry.bits for name, entry in stored.items()} == {"codes": 8, "whole": 8}
    _, flip = stored["codes"].flip("codes", 7, 6)
    changed = apply_flips(program.weights, program.storage, [flip])["codes"]
    network.codes.view(-1)[7] ^= 1 << 6
    assert torch.allclose(program.forward({"codes": changed}, {"x": x})["output"], network(x), 1e-5, 1e-5)


class OnTwoGrids(Stored):
    def forward(self, x: Tensor) -> Tensor:
        first = OPERATORS.dequantize_per_tensor(self.whole, 0.01, 128, 0, 255, torch.uint8)
        return x[:, :5] @ (first + OPERATORS.dequantize_per_tensor(self.whole, 0.02, 128, 0, 255, torch.uint8)).T + self.bias


class ReadAsIntegers(Stored):
    def forward(self, x: Tensor) -> Tensor:
        first = OPERATORS.dequantize_per_tensor(self.whole, 0.01, 128, 0, 255, torch.uint8)
        return x[:, :5] @ first.T + self.bias + (self.whole.float().mean() > 0)


@pytest.mark.parametrize("kind", [OnTwoGrids, ReadAsIntegers])
def test_integers_that_are_read_in_other_ways_too_stay_integers(kind: Callable[[], nn.Module], export: Export) -> None:
    network, x = kind(), torch.randn(9, 6, generator=torch.Generator().manual_seed(3))
    program = load_pt2(export(network, x))
    assert set(program.weights) == {"bias"}
    assert torch.allclose(program.forward({}, {"x": x})["output"], network(x), 1e-5, 1e-5)


class PerToken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        scales, zeros = OPERATORS.choose_qparams_per_token(x, torch.int8)
        codes = OPERATORS.quantize_per_token(x, scales, zeros, -128, 127, torch.int8)
        return self.fc(OPERATORS.dequantize_per_token(codes, scales, zeros, -128, 127, torch.int8, torch.float32))


def test_what_is_not_read_is_refused_by_name(export: Export, tmp_path: Path) -> None:
    del tmp_path
    with pytest.raises(UnsupportedOperator) as caught:
        load_pt2(export(PerToken(), torch.randn(4, 6)))
    assert {fault.where.rpartition("decomposed.")[2] for fault in caught.value.faults} == {
        "choose_qparams_per_token.default",
        "quantize_per_token.default",
        "dequantize_per_token.default",
    }


def tamper(path: Path, target: str, change: Callable[[list[dict[str, Any]]], None]) -> Path:
    """Change the arguments of the first node with such a target."""
    entries = read_entries(path)
    name = find_name(entries, "models/model.json")
    document = json.loads(entries[name])
    nodes = document["graph_module"]["graph"]["nodes"]
    change(next(node["inputs"] for node in nodes if target in node["target"]))
    entries[name] = json.dumps(document).encode()
    return write_entries(path, entries)


def move_axis(inputs: list[dict[str, Any]]) -> None:
    next(entry for entry in inputs if entry["name"] == "axis")["arg"] = {"as_int": 7}


def take_codes_as_steps(inputs: list[dict[str, Any]]) -> None:
    by_name = {entry["name"]: entry for entry in inputs}
    by_name["scales"]["arg"] = by_name["input"]["arg"]


def forget_the_zero_points(inputs: list[dict[str, Any]]) -> None:
    inputs[:] = [entry for entry in inputs if entry["name"] != "zero_points"]


def test_grids_that_fit_nothing_are_refused(export: Export) -> None:
    x = torch.randn(9, 6)
    with pytest.raises(ModelUnreadable):
        load_pt2(tamper(export(Stored(), x), "dequantize_per_channel", forget_the_zero_points))
    for change in (move_axis, take_codes_as_steps):
        path = tamper(export(Stored(), x), "dequantize_per_channel", change)
        assert "codes" not in load_pt2(path).weights
        with pytest.raises(DataMismatch):
            run_reference(path, {"x": x}, 1)
