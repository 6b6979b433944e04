"""Operators of ONNX Runtime's own domain over their attributes, against ONNX Runtime with random inputs."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from schemas.errors import UnsupportedOperator
from tests.worker.engine.models.onnx.graphs import initializer, node, save
from worker.engine.models.onnx import load_onnx, run_reference

OPSETS = {"": 20, "com.microsoft": 1}
CODES = {torch.float32: 1, torch.int32: 6, torch.int64: 7, torch.bool: 9}
BATCH, STEPS, HEADS, WIDTH = 2, 5, 2, 8
ALL = BATCH, STEPS, HEADS * WIDTH


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def compare(
    folder: Path,
    name: str,
    inputs: Mapping[str, Tensor],
    attributes: Mapping[str, Any],
    outputs: int = 1,
    *,
    stored: Mapping[str, Tensor] | None = None,
    tolerance: float = 1e-5,
) -> None:
    """Compare one operator with the runtime; the order of `inputs` is the operator's, a name with a blank is an omitted input."""
    stored = stored or {}
    given = {key: value for key, value in inputs.items() if " " not in key and key not in stored}
    names = ["" if " " in key else key for key in inputs]
    made = [f"y{n}" for n in range(outputs)]
    form = node(name, names, made, domain="com.microsoft", **attributes)
    kinds = {key: CODES[value.dtype] for key, value in given.items()}
    path = save(
        folder,
        [form],
        stored=[initializer(key, value.numpy()) for key, value in stored.items()],
        inputs=kinds,
        opsets=OPSETS,
        dtype=None,
    )
    expected = run_reference(path, given, threads=1)
    program = load_onnx(path)
    leaves = {key: value.clone().requires_grad_() for key, value in program.weights.items()}
    found = program.forward(leaves, given)
    for key, value in expected.items():
        assert found[key].dtype == value.dtype, key
        assert torch.allclose(found[key].detach(), value, tolerance, tolerance), (key, (found[key] - value).abs().max())
    if leaves:
        total = torch.stack([found[key].double().sum() for key, value in expected.items() if value.is_floating_point()]).sum()
        gradients = torch.autograd.grad(total, list(leaves.values()))
        assert all(bool(gradient.isfinite().all()) for gradient in gradients)


MASKS: dict[str, Tensor | None] = {
    "none": None,
    "of keys": torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.int32),
    "of pairs": (torch.rand(BATCH, STEPS, STEPS, generator=torch.Generator().manual_seed(1)) > 0.3).int(),
    "ends": torch.tensor([3, 5], dtype=torch.int32),
    "ends and starts": torch.tensor([4, 5, 1, 2], dtype=torch.int32),
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("form", ["plain", "added", "widths"])
def test_attention(tmp_path: Path, mask: str, causal: int, form: str) -> None:
    widths = (16, 16, 24) if form == "widths" else (16, 16, 16)
    inputs = {"x": torch.randn(BATCH, STEPS, 12), "w": torch.randn(12, sum(widths)), "b": torch.randn(sum(widths))}
    chosen = MASKS[mask]
    inputs |= {"no mask": torch.empty(0)} if chosen is None else {"mask": chosen}
    if form == "added":
        inputs |= {"no past": torch.empty(0), "added": torch.randn(1, HEADS, STEPS, STEPS)}
    attributes: dict[str, Any] = {"num_heads": HEADS, "unidirectional": causal}
    attributes |= {"qkv_hidden_sizes": list(widths)} if form == "widths" else {}
    stored = {key: inputs[key] for key in ("w", "b")}

    compare(tmp_path, "Attention", inputs, attributes, stored=stored)


@pytest.mark.parametrize("causal", [0, 1])
def test_attention_with_a_past(tmp_path: Path, causal: int) -> None:
    inputs = {
        "x": torch.randn(BATCH, STEPS, 12),
        "w": torch.randn(12, 48),
        "b": torch.randn(48),
        "mask": torch.tensor([[1] * 8, [0, 0] + [1] * 6], dtype=torch.int32),
        "past": torch.randn(2, BATCH, HEADS, 3, WIDTH),
    }

    compare(tmp_path, "Attention", inputs, {"num_heads": HEADS, "unidirectional": causal}, 2)


MULTI_HEAD: dict[str, tuple[dict[str, Tensor], int]] = {
    "plain": ({"q": torch.randn(ALL), "k": torch.randn(ALL), "v": torch.randn(ALL)}, 1),
    "bias": ({"q": torch.randn(ALL), "k": torch.randn(ALL), "v": torch.randn(ALL), "b": torch.randn(48)}, 1),
    "other lengths": ({"q": torch.randn(ALL), "k": torch.randn(BATCH, 7, 16), "v": torch.randn(BATCH, 7, 16)}, 1),
    "heads first": (
        {"q": torch.randn(ALL), "k": torch.randn(BATCH, HEADS, 7, WIDTH), "v": torch.randn(BATCH, HEADS, 7, WIDTH)},
        1,
    ),
    "masked": (
        {
            "q": torch.randn(ALL),
            "k": torch.randn(ALL),
            "v": torch.randn(ALL),
            "no bias": torch.empty(0),
            "mask": torch.tensor([[1, 1, 0, 0, 0], [1] * 5], dtype=torch.int32),
            "added": torch.randn(BATCH, HEADS, STEPS, STEPS),
        },
        1,
    ),
    "past": (
        {
            "q": torch.randn(ALL),
            "k": torch.randn(ALL),
            "v": torch.randn(ALL),
            "b": torch.randn(48),
            "no mask": torch.empty(0),
            "no added": torch.empty(0),
            "pk": torch.randn(BATCH, HEADS, 3, WIDTH),
            "pv": torch.randn(BATCH, HEADS, 3, WIDTH),
        },
        3,
    ),
}


@pytest.mark.parametrize(
    ("form", "causal"), [*((form, 0) for form in MULTI_HEAD), *((form, 1) for form in ("plain", "bias", "masked", "past"))]
)
def test_multi_head_attention(tmp_path: Path, form: str, causal: int) -> None:
    inputs, outputs = MULTI_HEAD[form]
    attributes: dict[str, Any] = {"num_heads": HEADS, "unidirectional": causal, "scale": 0.3}

    compare(tmp_path, "MultiHeadAttention", inputs, attributes, outputs)


def _make_grouped(past: int, *, packed: bool, lengths: list[int], steps: int = STEPS) -> dict[str, Tensor]:
    batch = len(lengths)
    if packed:
        given = {"q": torch.randn(batch, steps, 8 * 16), "no key": torch.empty(0), "no value": torch.empty(0)}
    else:
        given = {"q": torch.randn(batch, steps, 64), "k": torch.randn(batch, steps, 32), "v": torch.randn(batch, steps, 32)}
    caches = {"pk": torch.randn(batch, 2, past, 16), "pv": torch.randn(batch, 2, past, 16)}
    ends = {"lengths": torch.tensor(lengths, dtype=torch.int32) - 1, "total": torch.tensor(max(lengths), dtype=torch.int32)}
    angles = torch.arange(24).unsqueeze(1) * torch.rand(8)
    return {**given, **caches, **ends, "cos": angles.cos(), "sin": angles.sin()}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("interleaved", [None, 0, 1])
@pytest.mark.parametrize(
    ("past", "steps", "lengths"),
    [(0, 5, [5, 5]), (0, 5, [3, 5]), (4, 1, [5, 5]), (4, 1, [3, 5]), (6, 1, [5, 5]), (4, 3, [7]), (9, 3, [7])],
)
def test_grouped_attention(
    tmp_path: Path, past: int, steps: int, lengths: list[int], interleaved: int | None, *, packed: bool
) -> None:
    inputs = _make_grouped(past, packed=packed, lengths=lengths, steps=steps)
    attributes: dict[str, Any] = {"num_heads": 4, "kv_num_heads": 2}
    attributes |= {} if interleaved is None else {"do_rotary": 1, "rotary_interleaved": interleaved}

    compare(tmp_path, "GroupQueryAttention", inputs, attributes, 3)


@pytest.mark.parametrize(
    "attributes",
    [{"softcap": 2.0}, {"local_window_size": 3}, {"scale": 0.4}, {"smooth_softmax": 1}, {"causal": 0}],
    ids=lambda entry: next(iter(entry)),
)
@pytest.mark.parametrize("past", [0, 4])
def test_forms_of_grouped_attention(tmp_path: Path, attributes: dict[str, Any], past: int) -> None:
    inputs = _make_grouped(past, packed=False, lengths=[past + 5])

    compare(tmp_path, "GroupQueryAttention", inputs, {"num_heads": 4, "kv_num_heads": 2, **attributes}, 3)


def test_grouped_attention_with_bias_and_sinks(tmp_path: Path) -> None:
    inputs = _make_grouped(0, packed=False, lengths=[5, 5])
    inputs |= {"no positions": torch.empty(0), "added": torch.randn(1, 4, 5, 5), "sink": torch.randn(4)}
    attributes = {"num_heads": 4, "kv_num_heads": 2, "do_rotary": 1}

    compare(tmp_path, "GroupQueryAttention", inputs, attributes, 3, stored={"sink": inputs["sink"]})


@pytest.mark.parametrize("shape", [(2, 5, 32), (2, 2, 5, 16)])
@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("start", [True, False])
def test_rotary_positions(tmp_path: Path, shape: tuple[int, ...], interleaved: int, *, start: bool) -> None:
    angles = torch.arange(12).unsqueeze(1) * torch.rand(8)
    positions = torch.tensor([3]) if start else torch.randint(12, (2, 5))
    inputs = {"x": torch.randn(shape), "p": positions, "cos": angles.cos(), "sin": angles.sin()}

    compare(tmp_path, "RotaryEmbedding", inputs, {"interleaved": interleaved})


@pytest.mark.parametrize("segments", [True, False])
def test_embeddings(tmp_path: Path, *, segments: bool) -> None:
    tables = {"w": torch.randn(30, 16), "p": torch.randn(10, 16), "g": torch.randn(16), "b": torch.randn(16)}
    inputs = {"ids": torch.randint(30, (2, 5)).int()}
    inputs |= {"seg": torch.randint(2, (2, 5)).int()} if segments else {"no seg": torch.empty(0)}
    inputs |= {"w": tables["w"], "p": tables["p"]}
    inputs |= {"s": torch.randn(2, 16)} if segments else {"no table": torch.empty(0)}
    inputs |= {"g": tables["g"], "b": tables["b"], "mask": torch.tensor([[1, 1, 1, 0, 0], [1] * 5], dtype=torch.int32)}
    tables |= {"s": inputs["s"]} if segments else {}

    compare(tmp_path, "EmbedLayerNormalization", inputs, {"epsilon": 1e-5}, 2, stored=tables)


BOXES = torch.tensor([[0.1, 0.2, 0.8, 0.9], [-0.2, 0.0, 0.5, 1.3], [0.9, 0.7, 0.2, 0.1]])
GRID = torch.rand(2, 4, 4, 2, generator=torch.Generator().manual_seed(0)) * 2.4 - 1.2
SIMPLE: dict[str, tuple[str, dict[str, Tensor], dict[str, Any], int]] = {
    "triangle": ("Trilu", {"x": torch.randn(2, 4, 4), "k": torch.tensor(1)}, {"upper": 0}, 1),
    "inverse": ("Inverse", {"x": torch.randn(2, 4, 4) + 3 * torch.eye(4)}, {}, 1),
    "axis": ("ExpandDims", {"x": torch.randn(2, 4), "a": torch.tensor(-1, dtype=torch.int32)}, {}, 1),
    "range": ("Range", {"a": torch.tensor(1.0), "b": torch.tensor(7.5), "c": torch.tensor(1.5)}, {}, 1),
    "pad": ("Pad", {"x": torch.randn(2, 3), "p": torch.tensor([1, 0, 2, 1]), "v": torch.tensor(0.5)}, {}, 1),
    "reflect": ("Pad", {"x": torch.randn(4, 5), "p": torch.tensor([1, 0, 2, 1])}, {"mode": "reflect"}, 1),
    "gather": ("GatherND", {"x": torch.randn(3, 4, 2), "i": torch.tensor([[0, 1], [2, 3]])}, {}, 1),
    "unique": ("Unique", {"x": torch.tensor([2.0, 1.0, 1.0, 3.0, 4.0, 3.0])}, {}, 3),
    "unfold": ("UnfoldTensor", {"x": torch.randn(2, 9, 3)}, {"dim": 1, "size": 3, "step": 2}, 1),
    "distance": ("CDist", {"a": torch.randn(4, 6), "b": torch.randn(3, 6)}, {"metric": "euclidean"}, 1),
    "square": ("CDist", {"a": torch.randn(4, 6), "b": torch.randn(3, 6)}, {"metric": "sqeuclidean"}, 1),
    "product": (
        "TransposeMatMul",
        {"a": torch.randn(2, 4, 3), "b": torch.randn(2, 5, 4)},
        {"transA": 1, "transB": 1, "alpha": 2.0},
        1,
    ),
    "batch product": ("FusedMatMul", {"a": torch.randn(4, 2, 3), "b": torch.randn(2, 3, 5)}, {"transBatchA": 1}, 1),
    "gated sum": ("GatedAdd", {"x": torch.randn(2, 5, 8), "z": torch.randn(2, 5, 8), "g": torch.randn(2, 5, 1)}, {}, 1),
    "scaled": ("ScaledSiLU", {"x": torch.randn(2, 5)}, {"alpha": 1.7}, 1),
    "gated norm": (
        "GatedRMSNorm",
        {"x": torch.randn(2, 5, 16), "s": torch.randn(8), "g": torch.randn(2, 5, 16)},
        {"activation": "sigmoid", "epsilon": 1e-5},
        1,
    ),
    "gates of linear attention": (
        "LinearAttentionGate",
        {"a": torch.randn(2, 5, 4), "s": torch.randn(4), "f": -torch.rand(4), "b": torch.randn(2, 5, 4)},
        {},
        2,
    ),
    "branches": ("BranchwiseRMSNorm", {"x": torch.randn(2, 16), "s": torch.randn(2, 8)}, {"num_branches": 2}, 1),
    "causal convolution": (
        "CausalConvWithState",
        {"x": torch.randn(2, 6, 9), "w": torch.randn(6, 1, 4), "b": torch.randn(6), "p": torch.randn(2, 6, 3)},
        {"activation": "silu"},
        2,
    ),
    "linear attention": (
        "LinearAttention",
        {
            "q": torch.randn(2, 5, 16),
            "k": torch.nn.functional.normalize(torch.randn(2, 5, 8), dim=-1),
            "v": torch.randn(2, 5, 6),
            "no state": torch.empty(0),
            "d": -torch.rand(2, 5, 1),
            "b": torch.rand(2, 5, 1),
        },
        {"q_num_heads": 2, "kv_num_heads": 1, "update_rule": "gated_delta"},
        2,
    ),
    **{
        f"sampling {mode} {padding}": (
            "GridSample",
            {"x": torch.randn(2, 3, 5, 6), "grid": GRID},
            {"mode": mode, "padding_mode": padding},
            1,
        )
        for mode, padding in itertools.product(("bilinear", "nearest"), ("zeros", "border"))
    },
    **{
        f"crops {mode} {size}": (
            "CropAndResize",
            {
                "x": torch.randn(2, 3, 7, 9),
                "r": BOXES,
                "n": torch.tensor([0, 1, 1], dtype=torch.int32),
                "s": torch.tensor(size, dtype=torch.int32),
            },
            {"mode": mode, "extrapolation_value": 0.25},
            1,
        )
        for mode, size in itertools.product(("bilinear", "nearest"), ([3, 4], [1, 5]))
    },
}


@pytest.mark.parametrize("name", SIMPLE)
def test_other_operators(tmp_path: Path, name: str) -> None:
    operator, inputs, attributes, outputs = SIMPLE[name]

    compare(tmp_path, operator, inputs, attributes, outputs)


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu", "identity"])
@pytest.mark.parametrize(("chosen", "normalised"), [(1, 0), (2, 0), (2, 1)])
def test_experts(tmp_path: Path, activation: str, chosen: int, normalised: int) -> None:
    inputs = {
        "x": torch.randn(2, 5, 8),
        "scores": torch.randn(10, 4),
        "a": torch.randn(4, 16, 8),
        "ab": torch.randn(4, 16),
        "b": torch.randn(4, 8, 16),
        "bb": torch.randn(4, 8),
    }
    attributes: dict[str, Any] = {"k": chosen, "activation_type": activation, "normalize_routing_weights": normalised}
    stored = {name: inputs[name] for name in ("a", "ab", "b", "bb")}

    compare(tmp_path, "MoE", inputs, attributes, stored=stored, tolerance=1e-4)


@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("shape", [(2, 5, 32), (2, 2, 5, 16)])
def test_rotary_positions_of_three_streams(tmp_path: Path, layout: int, shape: tuple[int, ...]) -> None:
    angles = torch.arange(12).unsqueeze(1) * torch.rand(8)
    inputs = {"x": torch.randn(shape), "p": torch.randint(12, (3, 2, 5)), "cos": angles.cos(), "sin": angles.sin()}
    attributes: dict[str, Any] = {"mrope_section": [4, 2, 2], "mrope_layout": layout, "num_heads": 2}

    compare(tmp_path, "MRotaryEmbedding", inputs, attributes)


def test_transposed_convolutions_with_pads_as_an_input(tmp_path: Path) -> None:
    inputs = {
        "x": torch.randn(2, 4, 5, 6),
        "w": torch.randn(4, 3, 3, 3),
        "p": torch.tensor([1, 0, 0, 1]),
        "b": torch.randn(3),
    }

    compare(tmp_path, "ConvTransposeWithDynamicPads", inputs, {"strides": [2, 1]}, stored={"w": inputs["w"], "b": inputs["b"]})


@pytest.mark.parametrize("name", ["BiasSoftmax", "GroupNorm", "Rfft", "PackedAttention"])
def test_what_runs_on_gpus_only_is_refused_with_the_reason(tmp_path: Path, name: str) -> None:
    path = save(tmp_path, [node(name, ["x"], ["y"], domain="com.microsoft")], opsets=OPSETS)

    with pytest.raises(UnsupportedOperator, match="no kernel for CPUs") as raised:
        load_onnx(path)

    assert "before it was optimised" in raised.value.faults[0].advice
