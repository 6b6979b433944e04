"""What each operator's weights are for, and where they have their output channels: every operator that has weights is here."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.optimised import treat
from tests.architectures import ARCHITECTURES
from tests.worker.engine.models.onnx.exports import export
from tests.worker.engine.programs import build_program, make_step
from worker.engine.components import find_components
from worker.engine.models.channels import find_channel_axes
from worker.engine.models.onnx import load_onnx
from worker.engine.models.onnx.operators import TABLE
from worker.engine.models.onnx.operators.quantisation import READ_WEIGHT
from worker.engine.models.onnx.registry import Operator
from worker.engine.models.program import Step

Role = tuple[str, int | None]
CONV: dict[int, Role] = {0: ("other", 0), 1: ("convolution", 0), 2: ("bias", 0)}
CONV_TRANSPOSE: dict[int, Role] = {0: ("other", 1), 1: ("convolution", 1)}
SCALES: dict[int, Role] = {1: ("normalisation", 0), 2: ("normalisation", 0)}
GATES: dict[int, Role] = dict.fromkeys((1, 2, 3), ("recurrent", 1))
FACTORS: dict[int, Role] = {0: ("linear", -2), 1: ("linear", -1)}
GEMM: dict[int, Role] = {**FACTORS, 2: ("bias", -1)}
LINEAR: dict[int, Role] = {1: ("linear", 0), 2: ("bias", 0)}
OTHER: Role = ("other", 0)
EMBEDDING: dict[int, Role] = {
    **dict.fromkeys((2, 3, 4), ("embedding", 0)),
    **dict.fromkeys((5, 6), ("normalisation", 0)),
}

EXPECTED: dict[str, dict[int, Role]] = {
    "PRelu": {1: OTHER},
    "MatMul": FACTORS,
    "Gemm": GEMM,
    "Einsum": {0: ("linear", 0), 1: ("linear", 1)},
    "Conv": CONV,
    "ConvTranspose": {**CONV_TRANSPOSE, 2: ("bias", 1)},
    "DeformConv": {0: ("other", 0), 1: ("convolution", 0), 3: ("bias", 0)},
    "CausalConvWithState": {1: ("convolution", 0), 2: ("bias", 0)},
    "BatchNormalization": dict.fromkeys((1, 2, 3, 4), ("normalisation", 0)),
    "InstanceNormalization": SCALES,
    "GroupNormalization": SCALES,
    "LayerNormalization": SCALES,
    "SimplifiedLayerNormalization": {1: ("normalisation", 0)},
    "RMSNormalization": {1: ("normalisation", 0)},
    "LSTM": {**GATES, 7: ("recurrent", 1)},
    "GRU": GATES,
    "RNN": GATES,
    "Gather": {0: ("embedding", 0)},
    "DequantizeLinear": {0: OTHER},
    "MatMulInteger": FACTORS,
    "ConvInteger": {1: ("convolution", 0)},
    "QLinearConv": {3: ("convolution", 0), 8: ("bias", 0)},
    "QLinearMatMul": {0: ("linear", -2), 3: ("linear", -1)},
    "ai.onnx.ml.LinearClassifier": LINEAR,
    "ai.onnx.ml.LinearRegressor": LINEAR,
    "ai.onnx.ml.Scaler": {1: OTHER, 2: OTHER},
    "ai.onnx.ml.Imputer": {1: OTHER},
    "ai.onnx.ml.SVMRegressor": {1: OTHER, 2: OTHER, 3: OTHER},
    "com.microsoft.BiasGelu": {1: ("bias", 0)},
    "com.microsoft.FastGelu": {1: ("bias", 0)},
    "com.microsoft.FusedConv": CONV,
    "com.microsoft.FusedGemm": GEMM,
    "com.microsoft.FusedMatMul": FACTORS,
    "com.microsoft.TransposeMatMul": FACTORS,
    "com.microsoft.SkipLayerNormalization": {2: ("normalisation", 0), 3: ("normalisation", 0), 4: ("bias", 0)},
    "com.microsoft.SkipSimplifiedLayerNormalization": {2: ("normalisation", 0), 3: ("bias", 0)},
    "com.microsoft.SimplifiedLayerNormalization": {1: ("normalisation", 0)},
    "com.microsoft.EmbedLayerNormalization": EMBEDDING,
    "com.microsoft.BranchwiseRMSNorm": {1: ("normalisation", 0)},
    "com.microsoft.GatedRMSNorm": {1: ("normalisation", 0)},
    "com.microsoft.ScaledSiLU": {1: OTHER},
    "com.microsoft.CausalConvWithState": {1: ("convolution", 0), 2: ("bias", 0)},
    "com.microsoft.DequantizeLinear": {0: OTHER},
    "com.microsoft.MatMulIntegerToFloat": {**FACTORS, 6: ("bias", -1)},
    "com.microsoft.DynamicQuantizeMatMul": {1: ("linear", -1), 4: ("bias", -1)},
    "com.microsoft.QGemm": {3: ("linear", -1), 6: ("bias", -1)},
    "com.microsoft.QLinearConv": {3: ("convolution", 0), 8: ("bias", 0)},
    "com.microsoft.QLinearAdd": {0: ("bias", 0), 3: ("bias", 0)},
    "com.microsoft.QLinearMul": {0: OTHER, 3: OTHER},
    "com.microsoft.QLinearWhere": {1: OTHER, 4: OTHER},
    "com.microsoft.DynamicQuantizeLSTM": {1: ("recurrent", 2), 2: ("recurrent", 2), 3: ("recurrent", 1), 7: ("recurrent", 1)},
    "com.microsoft.QAttention": {1: ("attention_qkv", -1), 2: ("bias", -1)},
    "com.microsoft.QEmbedLayerNormalization": EMBEDDING,
    "com.microsoft.GatherBlockQuantized": {0: ("embedding", 0)},
    "com.microsoft.MatMulNBits": {1: ("linear", 0), 5: ("bias", 0)},
    "com.microsoft.Attention": {1: ("attention_qkv", -1), 2: ("bias", -1)},
    "com.microsoft.MultiHeadAttention": {3: ("bias", 0)},
    "com.microsoft.GroupQueryAttention": {11: OTHER},
    "com.microsoft.MoE": {2: ("feed_forward", 1), 3: ("bias", 1), 4: ("feed_forward", 1), 5: ("bias", 1)},
    "com.microsoft.LinearAttentionGate": {1: OTHER, 2: OTHER},
    "com.microsoft.ConvTransposeWithDynamicPads": {**CONV_TRANSPOSE, 3: ("bias", 1)},
    "com.microsoft.nchwc.Conv": {0: ("other", 0), 1: ("convolution", None), 2: ("bias", 0)},
}
ATTRIBUTES: dict[str, dict[str, Any]] = {"Einsum": {"equation": "ij,jk->ik"}}
SHAPES: dict[str, tuple[int, ...]] = {"bias": (4,)}
PACKED = {"com.microsoft.MatMulNBits": 1}


def list_slots(operator: Operator) -> set[int]:
    """Return the slots of an operator that hold weights, as the table says."""
    slots = {*operator.parameters, *operator.statistics, *(codes.slot for codes in operator.codes)}
    slots |= {PACKED[operator.title]} if operator.title in PACKED else set()
    return slots | ({0} if operator.title == "Gather" else set())


def read(operator: Operator, slot: int, shape: tuple[int, ...], attributes: Mapping[str, Any]) -> tuple[str, int | None]:
    """Return component and axis of a weight in one slot, the others given by a linear layer of other weights."""
    slots = (0, 1) if operator.like is None else operator.like.slots
    first = slots[1] if slot == slots[0] and len(slots) > 1 else slots[0]
    inputs = tuple("w#codes" if n == slot else "p" if n == first else f"given{n}" for n in range(max(slot, first) + 1))
    codes = Step("codes", READ_WEIGHT.title, READ_WEIGHT.function, ("w", "s", "z"), ("w#codes",), like=READ_WEIGHT.like)
    step = Step("step", operator.title, operator.function, inputs, ("y",), attributes, like=operator.like)
    before = make_step("aten::linear", torch.relu, ("x", "before"), "p")
    program = build_program({"w": torch.ones(shape), "before": torch.ones(3, 3)}, [before, codes, step], ("y",))
    return find_components(program)["w"], find_channel_axes(program)["w"]


def test_every_operator_that_has_weights_is_listed_with_every_slot() -> None:
    found: dict[str, set[int]] = {}
    for operator in TABLE.operators:
        slots = list_slots(operator)
        if slots or operator.learn is not None:
            found[operator.title] = found.get(operator.title, set()) | slots
    assert {title: set(roles) for title, roles in EXPECTED.items()} == found


@pytest.mark.parametrize(
    "operator", [entry for entry in TABLE.operators if entry.title in EXPECTED], ids=lambda entry: entry.title
)
def test_a_weight_has_the_component_and_the_channels_of_its_slot(operator: Operator) -> None:
    for slot, (component, axis) in EXPECTED[operator.title].items():
        shape = SHAPES.get(component, (4, 4, 4))
        assert read(operator, slot, shape, ATTRIBUTES.get(operator.title, {})) == (component, axis), slot


@pytest.mark.parametrize(
    ("title", "attributes", "slot", "axis"),
    [
        ("Gemm", {"transB": 1}, 1, -2),
        ("Gemm", {"transA": 1}, 0, -1),
        ("com.microsoft.FusedMatMul", {"transB": 1}, 1, -2),
        ("com.microsoft.FusedGemm", {"arguments": {"transB": 1}}, 1, -2),
        ("com.microsoft.QGemm", {"b_axis": 0}, 3, -2),
        ("com.microsoft.QGemm", {"b_axis": 1}, 3, -1),
        ("Einsum", {"equation": "bi,oi->bo"}, 1, 0),
        ("Einsum", {"equation": "bsd,dhk->bshk"}, 1, None),
        ("Einsum", {"equation": "...i,io->...o"}, 1, None),
    ],
)
def test_attributes_that_turn_a_weight_turn_its_channels(
    title: str, attributes: dict[str, Any], slot: int, axis: int | None
) -> None:
    (operator,) = (entry for entry in TABLE.operators if entry.title == title)
    assert read(operator, slot, (4, 4, 4), attributes) == ("linear", axis)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("treated")


@pytest.mark.parametrize(
    ("name", "treatment"),
    [("residual_cnn", "qop/ch"), ("vit", "qop"), ("vit", "dynamic"), ("vit", "extended"), ("lstm", "dynamic/ch")],
)
def test_a_treated_network_has_the_components_of_the_network(name: str, treatment: str, folder: Path) -> None:
    if not (folder / f"{name}.onnx").exists():
        shutil.copy(export("default", name).path, folder / f"{name}.onnx")
    path = treat(ARCHITECTURES[name], treatment, folder)
    treated, plain = find_components(load_onnx(path)), find_components(load_onnx(folder / f"{name}.onnx"))

    names = {weight: weight.removesuffix("_quantized").removesuffix("_Transposed") for weight in treated}
    assert {weight: treated[weight] for weight in treated} == {weight: plain[names[weight]] for weight in treated}
    assert set(plain) == set(names.values())
