"""Channels in blocks, as ONNX Runtime's optimiser writes them at level all: against loops, the runtime and the plain network."""

from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from schemas.errors import ModelRefused
from tests.architectures import ARCHITECTURES
from tests.worker.engine.models.onnx.exports import export
from tests.worker.engine.models.onnx.graphs import initializer, node, save
from worker.engine.components import find_components
from worker.engine.models.load import measure_parity
from worker.engine.models.onnx import load_onnx, run_reference
from worker.engine.models.onnx.blocks import SIZES, find_own_block
from worker.engine.models.onnx.operators.blocked import blocked_conv, unblock
from worker.engine.models.program import Program

BLOCKED = "com.microsoft.nchwc"
OPSETS = {"": 20, BLOCKED: 1}
OWN = find_own_block()
OTHER = sum(SIZES) - OWN


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def block(weight: Tensor, size: int) -> Tensor:
    """Write a weight in blocks, number by number."""
    outer, inner, height, width = weight.shape
    filled = inner if inner < size else -(-inner // size) * size
    step = size if inner >= size else 1
    stored = torch.zeros(-(-outer // size) * size * filled * height * width)
    for o in range(outer):
        for i in range(inner):
            for h in range(height):
                for w in range(width):
                    place = ((o // size * (filled // step) + i // step) * height + h) * width + w
                    stored[(place * step + i % step) * size + o % size] = weight[o, i, h, w]
    return stored.reshape(-(-outer // size) * size, filled, height, width)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("outer", "inner", "groups"), [(24, 3, 1), (5, 7, 1), (20, 20, 1), (16, 32, 1), (32, 1, 32), (32, 16, 2)]
)
def test_a_weight_in_blocks_is_the_same_weight(size: int, outer: int, inner: int, groups: int) -> None:
    plain = torch.randn(outer, inner, 3, 2, requires_grad=True)
    stored = block(plain.detach(), size).requires_grad_()
    x = torch.randn(2, inner * groups, 6, 5)
    expected = torch.relu(functional.conv2d(x, plain, None, 1, 1, 1, groups))
    filled = functional.pad(x, (0, 0, 0, 0, 0, stored.shape[1] * (groups if groups < outer else stored.shape[0]) - x.shape[1]))
    arguments = {"strides": 1, "padding": 1, "dilations": 1, "groups": stored.shape[0] if inner == 1 else groups, "window": None}

    found = blocked_conv(filled, stored, block=size, activation=torch.relu, arguments=arguments)[:, :outer]

    assert torch.allclose(found, expected, atol=1e-5)
    (gradient,) = torch.autograd.grad(found.square().sum(), stored)
    (wanted,) = torch.autograd.grad(expected.square().sum(), plain)
    assert torch.allclose(gradient, block(wanted, size), atol=1e-4)
    assert torch.equal(unblock(stored, size)[:outer, :inner], plain)


def save_blocked(folder: Path, *nodes: Any, **stored: Tensor) -> Path:
    return save(folder, nodes, stored=[initializer(name, value.numpy()) for name, value in stored.items()], opsets=OPSETS)


def enter(channels_last: int = 0) -> Any:
    return node("ReorderInput", ["x"], ["a"], domain=BLOCKED, channels_last=channels_last)


def leave(channels: int, source: str = "b", channels_last: int = 0) -> Any:
    return node("ReorderOutput", [source], ["y"], domain=BLOCKED, channels=channels, channels_last=channels_last)


def compare(path: Path, x: Tensor) -> None:
    (expected,) = run_reference(path, {"x": x}, 1).values()
    with torch.no_grad():
        (found,) = load_onnx(path).forward({}, {"x": x}).values()
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, 1e-5, 1e-5), (found - expected).abs().max()


WINDOW = {"kernel_shape": [3, 3], "pads": [0, 1, 1, 1], "strides": [2, 1]}
BETWEEN: dict[str, tuple[str, dict[str, Any]]] = {
    "max pool": ("MaxPool", WINDOW),
    "mean pool": ("AveragePool", WINDOW),
    "mean pool with padding": ("AveragePool", {**WINDOW, "count_include_pad": 1}),
    "largest": ("GlobalMaxPool", {}),
    "mean": ("GlobalAveragePool", {}),
    "nearest": ("Upsample", {"scales": [1, 1, 2, 3]}),
    **{
        mode: ("Upsample", {"scales": [1, 1, 2, 3], "mode": "linear", "coordinate_transformation_mode": mode})
        for mode in ("asymmetric", "align_corners", "half_pixel")
    },
}


@pytest.mark.parametrize("name", BETWEEN)
def test_operators_between_blocks(name: str, tmp_path: Path) -> None:
    kind, attributes = BETWEEN[name]
    path = save_blocked(tmp_path, enter(), node(kind, ["a"], ["b"], domain=BLOCKED, **attributes), leave(12))
    compare(path, torch.randn(2, 12, 6, 5))


@pytest.mark.parametrize("last", [0, 1])
def test_blocks_are_entered_and_left_with_channels_first_or_last(last: int, tmp_path: Path) -> None:
    compare(save_blocked(tmp_path, enter(last), leave(4, "a", 1 - last)), torch.randn(3, 4, 4, 4))


@pytest.mark.parametrize("activation", [None, "Relu", "HardSwish"])
@pytest.mark.parametrize("added", [False, True])
def test_convolutions_between_blocks(added: bool, activation: str | None, tmp_path: Path) -> None:
    weight, bias = block(torch.randn(20, 20, 3, 3), OWN), functional.pad(torch.randn(20), (0, -20 % OWN))
    attributes: dict[str, Any] = {"pads": [1, 1, 1, 1]} | ({"activation": activation} if activation else {})
    conv = node("Conv", ["a", "w", "c", *(["a"] if added else [])], ["b"], domain=BLOCKED, **attributes)
    compare(save_blocked(tmp_path, enter(), conv, leave(20), w=weight, c=bias), torch.randn(2, 20, 6, 5))


def test_a_file_for_another_processor_is_refused_before_the_runtime_sees_it(tmp_path: Path) -> None:
    # 24 outputs are three blocks of 8; one block of 16 holds 5 of 16 outputs.
    weight, channels = (torch.zeros(24, 8, 1, 1), 24) if OTHER == 8 else (torch.zeros(16, 16, 1, 1), 5)
    conv = node("Conv", ["a", "w"], ["b"], domain=BLOCKED)
    path = save_blocked(tmp_path, enter(), conv, leave(channels), w=weight)

    with pytest.raises(ModelRefused) as caught:
        load_onnx(path)

    (fault,) = caught.value.faults
    assert (fault.expected.split()[2], fault.got) == (str(OWN), str(OTHER))
    assert "level extended" in fault.advice


@pytest.mark.parametrize(
    ("weight", "nodes"),
    [
        ((12, 16, 1, 1), (enter(), node("Conv", ["a", "w"], ["b"], domain=BLOCKED), leave(12))),
        ((16, 12, 1, 1), (enter(), node("Conv", ["a", "w"], ["b"], domain=BLOCKED), leave(16))),
        ((32, 4, 1, 1), (enter(), node("Conv", ["a", "w"], ["b"], domain=BLOCKED, group=4), leave(32))),
        ((16, 16, 1, 1), (node("Conv", ["x", "w"], ["b"], domain=BLOCKED), leave(16))),
    ],
)
def test_channels_that_fill_no_blocks_are_refused(weight: tuple[int, ...], nodes: tuple[Any, ...], tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="blocks of another size"):
        load_onnx(save_blocked(tmp_path, *nodes, w=torch.zeros(weight)))


def measure_gradient(program: Program, inputs: dict[str, Tensor]) -> tuple[float, float]:
    """Return the 2-norm and the largest entry of the gradient of all weights."""
    leaves = {name: weight.clone().requires_grad_() for name, weight in program.weights.items()}
    loss = torch.stack([value.square().sum() for value in program.forward(leaves, inputs).values()]).sum()
    flat = torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss, list(leaves.values()))])
    return float(flat.norm()), float(flat.abs().max())


@pytest.mark.parametrize("name", ["residual_cnn", "unet"])
def test_a_network_optimised_at_level_all_is_the_network(name: str, tmp_path: Path) -> None:
    made, path = export("default", name), tmp_path / "all.onnx"
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(path), 4
    onnxruntime.InferenceSession(str(made.path), options, providers=["CPUExecutionProvider"])
    program, inputs = load_onnx(path), made.inputs

    assert any(step.operator == f"{BLOCKED}.Conv" for step in program.steps)
    assert measure_parity(path, program, inputs, 1) < 1e-5
    outputs, expected = program.forward({}, inputs), made.program.forward({}, inputs)
    for output in ARCHITECTURES[name].outputs:
        assert torch.allclose(outputs[output], expected[output], atol=1e-4)
    # Zeros that fill blocks have no gradient: the closed forms on the file are those on the network.
    assert measure_gradient(program, inputs) == pytest.approx(measure_gradient(made.program, inputs), rel=1e-4)
    kinds = find_components(program)
    blocks = [weight for weight in program.weights if weight.startswith("reorder") and program.weights[weight].ndim == 4]
    assert {kinds[weight] for weight in blocks} == {"convolution"}
    assert all(program.modules[weight] for weight in blocks)
    step = next(step for step in program.steps if step.operator == f"{BLOCKED}.Conv")
    assert program.modules[step.inputs[1]] == program.modules[step.inputs[2]]


def test_this_machine_has_blocks_that_are_known() -> None:
    assert OWN in SIZES
