"""Operators whose attributes have many forms, and those of ONNX Runtime's own domain, against ONNX Runtime."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import NodeProto, TensorProto
from torch import Tensor

from tests.worker.engine.models.onnx.graphs import initializer, node, save
from worker.engine.models.onnx import load_onnx, run_reference

MICROSOFT = {"": 20, "com.microsoft": 1}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def _random(*shape: int) -> np.ndarray:
    return torch.randn(*shape).numpy()


def _compare(path: Path, inputs: dict[str, Tensor], tolerance: float = 1e-5) -> None:
    expected = run_reference(path, inputs, threads=1)
    with torch.no_grad():
        found = load_onnx(path).forward({}, inputs)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        assert found[name].shape == value.shape
        assert torch.allclose(found[name].double(), value.double(), tolerance, tolerance), name


WINDOWS: list[dict[str, Any]] = [
    {"kernel_shape": [3, 2]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 1, 1, 0]},
    {"kernel_shape": [3, 3], "strides": [2, 3], "pads": [1, 1, 1, 1], "ceil_mode": 1},
    {"kernel_shape": [2, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
    {"kernel_shape": [2, 3], "strides": [2, 1], "auto_pad": "SAME_LOWER"},
    {"kernel_shape": [2, 2], "auto_pad": "VALID"},
    {"kernel_shape": [2, 2], "dilations": [2, 3], "pads": [1, 0, 1, 1]},
]


@pytest.mark.parametrize("window", WINDOWS)
def test_max_pools(tmp_path: Path, window: dict[str, Any]) -> None:
    _compare(save(tmp_path, [node("MaxPool", ["x"], ["y"], **window)]), {"x": torch.randn(2, 3, 9, 10)})


@pytest.mark.parametrize("window", WINDOWS[1:4])
def test_max_pools_number_the_whole_input(tmp_path: Path, window: dict[str, Any]) -> None:
    if window["pads"] == [0, 1, 1, 0]:
        window = {**window, "pads": [1, 1, 1, 1], "dilations": [2, 1]}

    _compare(save(tmp_path, [node("MaxPool", ["x"], ["y", "y_indices"], **window)]), {"x": torch.randn(2, 3, 9, 10)})


@pytest.mark.parametrize("padded", [0, 1])
@pytest.mark.parametrize("window", WINDOWS)
def test_mean_pools(tmp_path: Path, window: dict[str, Any], padded: int) -> None:
    nodes = [node("AveragePool", ["x"], ["y"], count_include_pad=padded, **window)]

    _compare(save(tmp_path, nodes), {"x": torch.randn(2, 3, 9, 10)})


@pytest.mark.parametrize("window", [window for window in WINDOWS if "ceil_mode" not in window])
def test_norm_pools(tmp_path: Path, window: dict[str, Any]) -> None:
    _compare(save(tmp_path, [node("LpPool", ["x"], ["y"], p=3, **window)]), {"x": torch.randn(2, 3, 9, 10)})


@pytest.mark.parametrize("window", [window for window in WINDOWS if "ceil_mode" not in window])
@pytest.mark.parametrize("group", [1, 2])
def test_convolutions(tmp_path: Path, window: dict[str, Any], group: int) -> None:
    stored = [initializer("w", _random(4, 4 // group, *window["kernel_shape"])), initializer("b", _random(4))]

    _compare(
        save(tmp_path, [node("Conv", ["x", "w", "b"], ["y"], group=group, **window)], stored=stored),
        {"x": torch.randn(2, 4, 9, 10)},
    )


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
        {"strides": [2, 3], "pads": [0, 1, 2, 1]},
        {"strides": [2, 2], "output_shape": [11, 12]},
        {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
        {"strides": [2, 2], "auto_pad": "SAME_LOWER"},
        {"dilations": [2, 1], "group": 2},
    ],
)
def test_transposed_convolutions(tmp_path: Path, attributes: dict[str, Any]) -> None:
    stored = [initializer("w", _random(4, 6 // attributes.get("group", 1), 3, 3)), initializer("b", _random(6))]
    path = save(tmp_path, [node("ConvTranspose", ["x", "w", "b"], ["y"], **attributes)], stored=stored)

    _compare(path, {"x": torch.randn(2, 4, 5, 6)})


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("coordinates", ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"])
@pytest.mark.parametrize("scales", [(2.0, 2.0), (1.5, 0.6), (3.0, 1.0)])
def test_resizing_by_scales(tmp_path: Path, mode: str, coordinates: str, scales: tuple[float, float]) -> None:
    factors = [initializer("scales", np.array([1, 1, *scales], np.float32))]
    nodes = [node("Resize", ["x", "", "scales"], ["y"], mode=mode, coordinate_transformation_mode=coordinates)]

    _compare(save(tmp_path, nodes, stored=factors), {"x": torch.randn(1, 2, 7, 5)}, 1e-4)


@pytest.mark.parametrize("rounding", ["floor", "ceil", "round_prefer_ceil", "round_prefer_floor"])
def test_resizing_to_sizes(tmp_path: Path, rounding: str) -> None:
    sizes = [initializer("sizes", np.array([1, 2, 9, 3]))]
    nodes = [node("Resize", ["x", "", "", "sizes"], ["y"], mode="nearest", nearest_mode=rounding)]

    _compare(save(tmp_path, nodes, stored=sizes), {"x": torch.randn(1, 2, 7, 5)})


@pytest.mark.parametrize(("kind", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("lengths", [None, [4, 6, 1]])
def test_recurrent_layers(tmp_path: Path, kind: str, gates: int, direction: str, lengths: list[int] | None) -> None:
    count = 2 if direction == "bidirectional" else 1
    stored = [
        initializer("w", _random(count, gates * 5, 4)),
        initializer("r", _random(count, gates * 5, 5)),
        initializer("b", _random(count, 2 * gates * 5)),
        initializer("h", _random(count, 3, 5)),
    ]
    inputs = ["x", "w", "r", "b", "" if lengths is None else "lengths", "h"]
    if lengths is not None:
        stored.append(initializer("lengths", np.array(lengths, np.int32)))
    extra: dict[str, Any] = {"linear_before_reset": 1} if kind == "GRU" and lengths is None else {}
    nodes = [node(kind, inputs, ["y", "y_h"], hidden_size=5, direction=direction, **extra)]

    _compare(save(tmp_path, nodes, stored=stored), {"x": torch.randn(6, 3, 4)})


def _fused(name: str, inputs: list[str], **attributes: Any) -> NodeProto:
    return node(name, inputs, ["y"], domain="com.microsoft", **attributes)


FUSED: list[tuple[NodeProto, dict[str, tuple[int, ...]]]] = [
    (_fused("Gelu", ["x"]), {}),
    (_fused("QuickGelu", ["x"], alpha=1.5), {}),
    (_fused("FastGelu", ["x", "b"]), {"b": (8,)}),
    (_fused("BiasGelu", ["x", "b"]), {"b": (8,)}),
    (_fused("FusedMatMul", ["x", "w"], alpha=0.5, transB=1), {"w": (2, 6, 8)}),
    (
        _fused("SkipLayerNormalization", ["x", "s", "g", "b", "c"], epsilon=1e-5),
        {"s": (2, 5, 8), "g": (8,), "b": (8,), "c": (8,)},
    ),
    (_fused("SkipSimplifiedLayerNormalization", ["x", "s", "g"], epsilon=1e-5), {"s": (2, 5, 8), "g": (8,)}),
    (_fused("Attention", ["x", "w", "b"], num_heads=2), {"w": (8, 24), "b": (24,)}),
    (_fused("Attention", ["x", "w", "b"], num_heads=2, unidirectional=1), {"w": (8, 24), "b": (24,)}),
    (_fused("MultiHeadAttention", ["x", "k", "v", "b"], num_heads=2), {"k": (2, 3, 8), "v": (2, 3, 8), "b": (24,)}),
]


@pytest.mark.parametrize(("fused", "shapes"), FUSED)
def test_operators_of_the_runtime(tmp_path: Path, fused: NodeProto, shapes: dict[str, tuple[int, ...]]) -> None:
    stored = [initializer(name, _random(*shape)) for name, shape in shapes.items()]

    _compare(save(tmp_path, [fused], stored=stored, opsets=MICROSOFT), {"x": torch.randn(2, 5, 8)}, 1e-4)


@pytest.mark.parametrize("activation", ["Relu", "LeakyRelu", "HardSigmoid", "Clip"])
def test_fused_convolutions(tmp_path: Path, activation: str) -> None:
    numbers = {"LeakyRelu": [0.3], "HardSigmoid": [0.2, 0.4], "Clip": [-0.5, 0.5]}.get(activation)
    attributes: dict[str, Any] = {"activation": activation, "pads": [1, 1, 1, 1]} | (
        {"activation_params": numbers} if numbers else {}
    )
    stored = [initializer("w", _random(4, 3, 3, 3)), initializer("b", _random(4))]
    path = save(tmp_path, [_fused("FusedConv", ["x", "w", "b"], **attributes)], stored=stored, opsets=MICROSOFT)

    _compare(path, {"x": torch.randn(2, 3, 6, 6)})


def test_fused_products(tmp_path: Path) -> None:
    stored = [initializer("w", _random(6, 8)), initializer("b", _random(6))]
    fused = _fused("FusedGemm", ["x", "w", "b"], activation="LeakyRelu", activation_alpha=0.3, transB=1)

    _compare(save(tmp_path, [fused], stored=stored, opsets=MICROSOFT), {"x": torch.randn(5, 8)})


def test_regions(tmp_path: Path) -> None:
    boxes = np.array([[0.5, 1.0, 5.5, 6.0], [-1.0, 0.0, 3.0, 9.0]], np.float32)
    stored = [initializer("boxes", boxes), initializer("batches", np.array([0, 1]))]
    aligned: dict[str, Any] = {"output_height": 3, "output_width": 2, "sampling_ratio": 2, "spatial_scale": 0.7}
    path = save(tmp_path, [node("RoiAlign", ["x", "boxes", "batches"], ["y"], **aligned)], stored=stored)

    _compare(path, {"x": torch.randn(2, 3, 8, 8)})


def test_integers_divide_and_average_as_the_runtime_does(tmp_path: Path) -> None:
    nodes = [
        node("Div", ["x", "d"], ["y"]),
        node("Mod", ["x", "d"], ["y_rest"]),
        node("ReduceMean", ["x"], ["y_mean"], keepdims=0),
    ]
    path = save(tmp_path, nodes, stored=[initializer("d", np.array([3, -2, 4]))], dtype=TensorProto.INT64)

    _compare(path, {"x": torch.tensor([-7, 7, 11])})
