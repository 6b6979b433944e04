"""The operators that ONNX Runtime's optimiser writes (domain com.microsoft)."""

from collections.abc import Callable, Sequence
from typing import Any, Unpack

import torch
from torch import Tensor
from torch.nn import functional

from worker.engine.models.onnx.operators.attention import attend, join_heads, split_heads
from worker.engine.models.onnx.operators.convolution import conv, read_convolution
from worker.engine.models.onnx.operators.linear import gemm
from worker.engine.models.onnx.operators.normalisation import layer_norm, rms_norm
from worker.engine.models.onnx.registry import Facts, Family, Node, UncoveredError

family = Family("com.microsoft")


def operator(*names: str, **facts: Unpack[Facts]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the decorator that enters an operator in ONNX Runtime's domain."""
    facts["domain"] = "com.microsoft"
    return family(*names, **facts)


def _apply(name: str, numbers: Sequence[float]) -> Callable[[Tensor], Tensor]:
    activations: dict[str, Callable[[Tensor], Tensor]] = {
        "": lambda x: x,
        "Relu": torch.relu,
        "Tanh": torch.tanh,
        "Sigmoid": torch.sigmoid,
        "LeakyRelu": lambda x: functional.leaky_relu(x, numbers[0] if numbers else 0.01),
        "Clip": lambda x: torch.clamp(x, *numbers),
        "HardSigmoid": lambda x: torch.clamp(numbers[0] * x + numbers[1], 0.0, 1.0),
    }
    if name not in activations:
        message = f"with activation {name} is not supported"
        raise UncoveredError(message)
    return activations[name]


def _read_activation(node: Node) -> Callable[[Tensor], Tensor]:
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
    return {"activation": _read_activation(node), "arguments": read_convolution(node)}


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


@operator("FusedMatMul", parameters=(0, 1))
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


def _read_packed_attention(node: Node) -> dict[str, Any]:
    get = node.attributes.get
    if any(node.has_input(slot) for slot in (3, 4, 6)) or node.has_output(1) or get("do_rotary", 0):
        message = "with key lengths, past states or rotary positions is not supported"
        raise UncoveredError(message)
    return {
        "heads": get("num_heads"),
        "causal": bool(get("unidirectional", 0)),
        "scale": get("scale"),
        "widths": get("qkv_hidden_sizes"),
    }


@operator("Attention", parameters=(1, 2), prepare=_read_packed_attention)
def packed_attention(  # noqa: PLR0913 - the runtime's inputs and attributes
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    lengths: Tensor | None = None,
    past: Tensor | None = None,
    added: Tensor | None = None,
    *,
    heads: int,
    causal: bool,
    scale: float | None,
    widths: Sequence[int] | None,
) -> Tensor:
    """Self-attention with one joint projection to query, key and value."""
    joint = torch.matmul(x, weight) if bias is None else torch.matmul(x, weight) + bias
    parts = joint.chunk(3, -1) if widths is None else joint.split(list(widths), -1)
    query, key, value = (split_heads(part, heads) for part in parts)
    if causal and added is not None:
        size = (query.shape[2], key.shape[2])
        added = added + torch.full(size, -torch.inf, dtype=x.dtype, device=x.device).triu(1)
    return join_heads(attend(query, key, value, added, scale, causal=causal and added is None))


def _read_multi_head(node: Node) -> dict[str, Any]:
    get = node.attributes.get
    if any(node.has_input(slot) for slot in (4, 6, 7)) or node.has_output(1) or not node.has_input(2):
        message = "with packed inputs, key masks or past states is not supported"
        raise UncoveredError(message)
    return {"heads": get("num_heads"), "causal": bool(get("unidirectional", 0)), "scale": get("scale")}


@operator("MultiHeadAttention", parameters=(3,), prepare=_read_multi_head)
def multi_head_attention(  # noqa: PLR0913 - the runtime's inputs and attributes
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    added: Tensor | None = None,
    *,
    heads: int,
    causal: bool,
    scale: float | None,
) -> Tensor:
    """Attention over projected query, key and value, with their joint bias."""
    if bias is not None:
        widths = [part.shape[-1] for part in (query, key, value)]
        query, key, value = (part + piece for part, piece in zip((query, key, value), bias.split(widths), strict=True))
    q, k, v = (split_heads(part, heads) if part.ndim == 3 else part for part in (query, key, value))
    return join_heads(attend(q, k, v, added, scale, causal=causal and added is None))
