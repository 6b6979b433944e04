"""The differentiable forms of PyTorch's fused transformer kernels, against the kernels."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.architectures import ARCHITECTURES
from tests.architectures.comparison import compute_eager_gradients, compute_program_gradients, compute_relative_error
from worker.engine.models.aten.attention import native_multi_head_attention, transformer_encoder_layer
from worker.engine.models.torchscript import load_torchscript

MASKS: dict[str, tuple[Tensor | None, int | None]] = {
    "none": (None, None),
    "square": (torch.ones(5, 5, dtype=torch.bool).triu(1), 0),
    "keys": (torch.arange(5) >= torch.tensor([[5], [3], [2]]), 1),
}


@pytest.fixture
def weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    shapes = {"qkv_weight": (24, 8), "qkv_bias": (24,), "proj_weight": (8, 8), "proj_bias": (8,)}
    return {name: torch.randn(*shape) / 3 for name, shape in shapes.items()}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("average", [True, False])
def test_attention_equals_the_kernel(weights: dict[str, Tensor], mask: str, average: bool) -> None:
    x = torch.randn(3, 5, 8)
    given: dict[str, Any] = {"query": x, "key": x, "value": x, "embed_dim": 8, "num_head": 2, **weights}
    given |= {"mask": MASKS[mask][0], "mask_type": MASKS[mask][1], "need_weights": True, "average_attn_weights": average}
    expected = torch.ops.aten._native_multi_head_attention(**given)
    for found, wanted in zip(native_multi_head_attention(**given), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("gelu", [True, False])
@pytest.mark.parametrize("first", [True, False])
def test_encoder_layer_equals_the_kernel(weights: dict[str, Tensor], gelu: bool, first: bool) -> None:
    sizes = {"norm_weight_1": 8, "norm_bias_1": 8, "norm_weight_2": 8, "norm_bias_2": 8, "ffn_bias_1": 12, "ffn_bias_2": 8}
    given: dict[str, Any] = {name: torch.randn(size) for name, size in sizes.items()}
    given |= {"ffn_weight_1": torch.randn(12, 8), "ffn_weight_2": torch.randn(8, 12), "src": torch.randn(3, 5, 8), **weights}
    given |= {"embed_dim": 8, "num_heads": 2, "use_gelu": gelu, "norm_first": first, "eps": 1e-5}
    given |= {"mask": MASKS["keys"][0], "mask_type": 1}
    expected = torch.ops.aten._transformer_encoder_layer_fwd(**given)
    # The kernel leaves rows of padded positions undefined.
    kept = ~MASKS["keys"][0]  # type: ignore[operator]
    torch.testing.assert_close(transformer_encoder_layer(**given)[kept], expected[kept], rtol=1e-4, atol=1e-5)


def test_a_trace_without_gradients_has_gradients_here(tmp_path: Path) -> None:
    # Under no_grad the tracer records the fused kernel, which has no backward.
    architecture = ARCHITECTURES["transformer_encoder"]
    model, inputs = architecture.build(), architecture.make_example()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(model, tuple(inputs.values()), check_trace=False)
        torch.jit.save(traced, str(tmp_path / "model.pt"))
    program = load_torchscript(tmp_path / "model.pt")
    assert "aten::_transformer_encoder_layer_fwd" in {step.operator for step in program.steps}
    found = compute_program_gradients(program, inputs)
    assert compute_relative_error(found, compute_eager_gradients(model, inputs)) <= 1e-5
