"""The operators that ONNX Runtime's optimiser writes (domain com.microsoft)."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from worker.engine.models.onnx.operators.convolution import causal_conv, conv, read_convolution
from worker.engine.models.onnx.operators.linear import gemm
from worker.engine.models.onnx.operators.normalisation import layer_norm, rms_norm
from worker.engine.models.onnx.registry import Family, Node, UncoveredError

operator = Family("com.microsoft", "com.microsoft")


def _apply(name: str, numbers: Sequence[float]) -> Callable[[Tensor], Tensor]:
    activations: dict[str, Callable[[Tensor], Tensor]] = {
        "": lambda x: x,
        "Relu": torch.relu,
        "Tanh": torch.tanh,
        "Sigmoid": torch.sigmoid,
        "LeakyRelu": lambda x: functional.leaky_relu(x, numbers[0] if numbers else 0.01),
        "Clip": lambda x: torch.clamp(x, *numbers),
        "HardSigmoid": lambda x: torch.clamp(numbers[0] * x + numbers[1], 0.0, 1.0),
        "HardSwish": functional.hardswish,
    }
    if name not in activations:
        message = f"with activation {name} is not supported"
        raise UncoveredError(message)
    return activations[name]


def read_activation(node: Node) -> Callable[[Tensor], Tensor]:
    """Return the activation that is fused into a node."""
    return _apply(node.attributes.get("activation", ""), node.attributes.get("activation_params", ()))


@operator("Gelu")
def gelu(x: Tensor) -> Tensor:
    """Exact GELU."""
    return functional.gelu(x)


@operator("BiasGelu", parameters=(1,))
def bias_gelu(x: Tensor, bias: Tensor) -> Tensor:
    """Exact GELU of x plus a bias."""
    return functional.gelu(x + bias)


@operator("FastGelu", parameters=(1,))
def fast_gelu(x: Tensor, bias: Tensor | None = None) -> Tensor:
    """GELU by tanh, of x plus a bias."""
    return functional.gelu(x if bias is None else x + bias, approximate="tanh")


@operator("QuickGelu")
def quick_gelu(x: Tensor, *, alpha: float = 1.702) -> Tensor:
    """X sigmoid(alpha x)."""
    return x * torch.sigmoid(alpha * x)


def _read_fused_conv(node: Node) -> dict[str, Any]:
    return {"activation": read_activation(node), "arguments": read_convolution(node)}


@operator("FusedConv", parameters=(0, 1, 2), prepare=_read_fused_conv)
def fused_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    added: Tensor | None = None,
    *,
    activation: Callable[[Tensor], Tensor],
    arguments: dict[str, Any],
) -> Tensor:
    """Convolution, plus a tensor, then an activation."""
    y = conv(x, weight, bias, **arguments)
    return activation(y if added is None else y + added)


def _read_fused_gemm(node: Node) -> dict[str, Any]:
    get = node.attributes.get
    numbers = [get(f"activation_{name}", default) for name, default in (("alpha", 0.01), ("beta", 0.0))]
    kept = {name: get(name, default) for name, default in (("alpha", 1.0), ("beta", 1.0), ("transA", 0), ("transB", 0))}
    name = get("activation", "")
    return {"activation": _apply(name, numbers[:1] if name == "LeakyRelu" else numbers), "arguments": kept}


@operator("FusedGemm", parameters=(0, 1, 2), prepare=_read_fused_gemm)
def fused_gemm(
    a: Tensor, b: Tensor, c: Tensor | None = None, *, activation: Callable[[Tensor], Tensor], arguments: dict[str, Any]
) -> Tensor:
    """Alpha A B + beta C, then an activation."""
    return activation(gemm(a, b, c, **arguments))


@operator("FusedMatMul", "TransposeMatMul", parameters=(0, 1))
def fused_matmul(
    a: Tensor, b: Tensor, *, alpha: float = 1.0, transA: int = 0, transB: int = 0, transBatchA: int = 0, transBatchB: int = 0
) -> Tensor:
    """Alpha A B, the last two axes (or the batch axes and the next) swapped on request."""
    a = a.movedim(0, -2) if transBatchA else a
    b = b.movedim(0, -2) if transBatchB else b
    a = a.transpose(-1, -2) if transA and a.ndim > 1 else a
    b = b.transpose(-1, -2) if transB and b.ndim > 1 else b
    product = torch.matmul(a, b)
    return product if alpha == 1.0 else alpha * product


@operator("SkipLayerNormalization", parameters=(2, 3, 4), many=True)
def skip_layer_norm(
    x: Tensor, skip: Tensor, scale: Tensor, shift: Tensor | None = None, bias: Tensor | None = None, *, epsilon: float = 1e-12
) -> tuple[Tensor | None, ...]:
    """Layer normalisation of a residual sum, and the sum."""
    total = x + skip if bias is None else x + skip + bias
    (y,) = layer_norm(total, scale, shift, axis=-1, epsilon=epsilon)
    return y, None, None, total


@operator("SkipSimplifiedLayerNormalization", parameters=(2, 3), many=True)
def skip_rms_norm(
    x: Tensor, skip: Tensor, scale: Tensor, bias: Tensor | None = None, *, epsilon: float = 1e-12
) -> tuple[Tensor | None, ...]:
    """Root-mean-square normalisation of a residual sum, and the sum."""
    total = x + skip if bias is None else x + skip + bias
    return rms_norm(total, scale, axis=-1, epsilon=epsilon), None, None, total


@operator("SimplifiedLayerNormalization", parameters=(1,))
def simplified_layer_norm(
    x: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5, stash_type: torch.dtype = torch.float32
) -> Tensor:
    """All axes from `axis` on together to root mean square 1, then scaled."""
    return rms_norm(x, scale, axis=axis, epsilon=epsilon)


@operator("EmbedLayerNormalization", parameters=(2, 3, 4, 5, 6), many=True)
def embed_layer_norm(  # noqa: PLR0913, PLR0917 - the runtime's inputs
    words: Tensor,
    segments: Tensor | None,
    word_table: Tensor,
    position_table: Tensor,
    segment_table: Tensor | None,
    scale: Tensor,
    shift: Tensor,
    mask: Tensor | None = None,
    positions: Tensor | None = None,
    *,
    epsilon: float = 1e-12,
    mask_index_type: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Layer normalisation of the sum of word, position and segment embeddings; also lengths by the mask, and the sum."""
    places = torch.arange(words.shape[1], device=words.device).unsqueeze(0) if positions is None else positions
    total = word_table[words.long()] + position_table[places.long()]
    if segments is not None and segment_table is not None:
        total = total + segment_table[segments.long()]
    (y,) = layer_norm(total, scale, shift, axis=-1, epsilon=epsilon)
    lengths = words.new_zeros(words.shape[0]) if mask is None else mask.sum(1)
    return y, lengths.int(), total


@operator("BranchwiseRMSNorm", parameters=(1,))
def branchwise_rms_norm(x: Tensor, scale: Tensor | None = None, *, num_branches: int = 0, epsilon: float = 1e-5) -> Tensor:
    """Each branch to root mean square 1, then scaled."""
    rows = x.unflatten(-1, (num_branches, -1)) if num_branches else x
    y = functional.rms_norm(rows, rows.shape[-1:], eps=epsilon)
    if scale is not None:
        y = y * (scale if scale.numel() == rows.shape[-1] else scale.reshape(rows.shape[-2:]))
    return y.reshape(x.shape)


def _choose_gate(node: Node) -> dict[str, Any]:
    logistic = node.attributes.get("activation", "silu") == "sigmoid"
    return {"activation": torch.sigmoid if logistic else functional.silu, "epsilon": node.attributes.get("epsilon", 1e-5)}


@operator("GatedRMSNorm", parameters=(1,), prepare=_choose_gate)
def gated_rms_norm(x: Tensor, scale: Tensor, gate: Tensor, *, activation: Callable[[Tensor], Tensor], epsilon: float) -> Tensor:
    """Groups of features to root mean square 1, scaled, times an activated gate."""
    rows = x.unflatten(-1, (-1, len(scale)))
    return functional.rms_norm(rows, (len(scale),), scale, epsilon).reshape(x.shape) * activation(gate)


@operator("GatedAdd")
def gated_add(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """X plus y times a gate per row."""
    return x + y * gate


@operator("ScaledSiLU", parameters=(1,))
def scaled_silu(x: Tensor, scale: Tensor | None = None, *, alpha: float = 1.0) -> Tensor:
    """SiLU of x times a scale."""
    return functional.silu(x * (alpha if scale is None else scale))


def _read_state(node: Node) -> dict[str, bool]:
    get = node.attributes.get
    if get("ndim", 1) != 1 or get("dilation", 1) != 1 or get("channels_last", 0) or get("state_window", 0):
        message = "with several axes, dilation, channels last or a window of states is not supported"
        raise UncoveredError(message)
    return {"swish": get("activation", "none") in {"silu", "swish"}}


operator("CausalConvWithState", parameters=(1, 2), prepare=_read_state, many=True)(causal_conv)
