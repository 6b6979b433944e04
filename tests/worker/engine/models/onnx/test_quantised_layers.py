"""Layers that ONNX Runtime's quantiser writes as one operator, against ONNX Runtime and the layer before it was quantised."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import NodeProto, TensorProto
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor

from schemas.errors import UnsupportedOperator
from tests.worker.engine.models.onnx.graphs import initializer, node, save
from worker.engine.models.onnx import load_onnx, run_reference
from worker.engine.models.onnx.operators import TABLE

GENERATOR = np.random.default_rng(3)
OPSETS = {"": 20, "com.microsoft": 1}


def draw(*shape: int) -> np.ndarray:
    return GENERATOR.normal(size=shape).astype(np.float32) / 2


def check_quantised(path: Path, inputs: dict[str, Tensor], written: str, tolerance: float = 1e-5, **options: Any) -> None:
    """Quantise a file; compare outputs with the runtime's, weights with those before, and see that gradients reach all."""
    target = path.with_name("quantised.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantize_dynamic(path, target, **options)
    program, before = load_onnx(target), load_onnx(path)
    assert written in {step.operator.rpartition(".")[2] for step in program.steps}
    leaves = {name: value.clone().requires_grad_() for name, value in program.weights.items()}
    outputs, expected = program.forward(leaves, inputs), run_reference(target, inputs, 1)
    for name, value in expected.items():
        assert torch.allclose(outputs[name].detach(), value, atol=tolerance), (name, (outputs[name] - value).abs().max())
    quantised = [name.removesuffix("_quantized") for name in program.grids]
    assert quantised
    for name in quantised:
        stored, plain = program.weights[f"{name}_quantized"], before.weights[name]
        plain = plain if stored.shape == plain.shape else plain.transpose(1, 2)
        # The quantiser itself rounds to half a step; a grid of seven bits has steps twice as wide.
        assert bool(((stored - plain).abs() <= 0.51 * program.grids[f"{name}_quantized"].step).all()), name
    total = sum(value.square().sum() for value in outputs.values() if value.requires_grad)
    assert isinstance(total, Tensor)
    gradients = torch.autograd.grad(total, list(leaves.values()))
    assert all(bool(gradient.isfinite().all()) and bool(gradient.any()) for gradient in gradients)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("form", ["forward", "reverse", "bidirectional", "plain", "peepholes", "given", "lengths"])
def test_lstm(tmp_path: Path, form: str, per_channel: bool) -> None:
    directions = 2 if form == "bidirectional" else 1
    shapes: dict[str, tuple[int, ...]] = {"w": (directions, 20, 4), "r": (directions, 20, 5)}
    names = ["x", "w", "r", "", "", "", "", ""]
    if form != "plain":
        shapes["b"], names[3] = (directions, 40), "b"
    if form == "peepholes":
        shapes["p"], names[7] = (directions, 15), "p"
    given = {"h": torch.from_numpy(draw(1, 3, 5)), "c": torch.from_numpy(draw(1, 3, 5))} if form == "given" else {}
    names[5:7] = [*given] or ["", ""]
    stored = [initializer(name, draw(*shape)) for name, shape in shapes.items()]
    if form == "lengths":
        stored, names[4] = [*stored, initializer("n", np.array([6, 2, 4], np.int32))], "n"
    direction = form if form in {"reverse", "bidirectional"} else "forward"
    while not names[-1]:
        names.pop()
    layer = node("LSTM", names, ["y", "y_h", "y_c"], name="layer", hidden_size=5, direction=direction)
    path = save(tmp_path, [layer], stored=stored, inputs=dict.fromkeys(("x", *given), TensorProto.FLOAT), opsets=OPSETS)

    check_quantised(path, {"x": torch.from_numpy(draw(6, 3, 4)), **given}, "DynamicQuantizeLSTM", per_channel=per_channel)


def test_lengths_of_a_backward_lstm_are_refused(tmp_path: Path) -> None:
    names = ["x", "w", "r", "", "n", "", "", "", "s", "z", "s", "z"]
    layer = node("DynamicQuantizeLSTM", names, ["y"], domain="com.microsoft", hidden_size=1, direction="reverse")
    stored = {"w": np.zeros((1, 1, 4), np.int8), "r": np.zeros((1, 1, 4), np.int8), "n": np.array([1], np.int32)}
    stored |= {"s": np.ones(1, np.float32), "z": np.zeros(1, np.int8)}
    path = save(tmp_path, [layer], stored=[initializer(name, value) for name, value in stored.items()], opsets=OPSETS)

    with pytest.raises(UnsupportedOperator, match="with lengths and backward"):
        load_onnx(path)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("weight_type", [QuantType.QInt8, QuantType.QUInt8])
@pytest.mark.parametrize("form", ["plain", "causal", "masked", "scaled"])
def test_attention(tmp_path: Path, form: str, weight_type: QuantType, per_channel: bool) -> None:
    stored = [initializer("w", draw(6, 24)), initializer("b", draw(24))]
    names = ["x", "w", "b"]
    if form == "masked":
        stored, names = [*stored, initializer("m", np.array([[1, 1, 1, 0, 0], [1] * 5], np.int32))], [*names, "m"]
    attributes: dict[str, Any] = {"unidirectional": 1} if form == "causal" else {"scale": 0.7} if form == "scaled" else {}
    layer = node("Attention", names, ["y"], name="layer", domain="com.microsoft", num_heads=2, **attributes)
    path = save(tmp_path, [layer], stored=stored, opsets=OPSETS, dtype=None)

    x = torch.from_numpy(draw(2, 5, 6))
    check_quantised(path, {"x": x}, "QAttention", per_channel=per_channel, weight_type=weight_type)


def write_embedding(*names: str) -> NodeProto:
    return node("EmbedLayerNormalization", names, ["y", "y_lengths"], name="layer", domain="com.microsoft", epsilon=1e-5)


@pytest.mark.parametrize("form", ["segments", "no segments", "masked"])
def test_embeddings(tmp_path: Path, form: str) -> None:
    tables = {"words": draw(11, 8), "places": draw(7, 8), "kinds": draw(2, 8), "scale": 1 + draw(8), "shift": draw(8)}
    inputs = {"x": torch.tensor([[1, 4, 10, 0], [3, 3, 2, 9]], dtype=torch.int32)}
    if form == "no segments":
        layer = write_embedding("x", "", "words", "places", "", "scale", "shift")
        del tables["kinds"]
    else:
        inputs["s"] = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1]], dtype=torch.int32)
        layer = write_embedding("x", "s", *tables, *(["m"] if form == "masked" else []))
    if form == "masked":
        inputs["m"] = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]], dtype=torch.int32)
    stored = [initializer(name, value) for name, value in tables.items()]
    path = save(tmp_path, [layer], stored=stored, inputs=dict.fromkeys(inputs, TensorProto.INT32), opsets=OPSETS, dtype=None)

    check_quantised(path, inputs, "QEmbedLayerNormalization", 1e-4)


def test_every_operator_on_integers_of_a_grid_says_that_they_are_floats_here() -> None:
    assert [entry.title for entry in TABLE.operators if entry.codes and not entry.rounds] == []
