"""Mixtures of experts and gates as ONNX Runtime's exporters of language models write them (domain com.microsoft)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from worker.engine.models.onnx.operators.attention import rotary_embedding
from worker.engine.models.onnx.operators.microsoft_attention import read_rotation
from worker.engine.models.onnx.registry import Family, Node, UncoveredError

operator = Family("com.microsoft experts", "com.microsoft")

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "relu": torch.relu,
    "gelu": lambda x: functional.gelu(x, approximate="tanh"),
    "silu": functional.silu,
}


@dataclass(frozen=True)
class Mixture:
    """How many experts each token asks, whether their shares add up to one, and what lies between an expert's two layers."""

    chosen: int
    normalised: bool
    activation: Callable[[Tensor], Tensor]


def _read_mixture(node: Node) -> dict[str, Mixture]:
    get = node.attributes.get
    kind = get("activation_type", "relu")
    if kind not in ACTIVATIONS or get("use_sparse_mixer", 0) or node.has_input(6):
        message = f"with activation {kind}, a sparse mixer or a third layer is not supported"
        raise UncoveredError(message)
    return {"mixture": Mixture(get("k", 1), bool(get("normalize_routing_weights", 0)), ACTIVATIONS[kind])}


@operator("MoE", parameters=(2, 3, 4, 5), prepare=_read_mixture)
def mix_experts(
    x: Tensor,
    scores: Tensor,
    first: Tensor,
    first_bias: Tensor | None,
    second: Tensor,
    second_bias: Tensor | None = None,
    *,
    mixture: Mixture,
) -> Tensor:
    """Each token's best experts, networks of two layers, weighed by the softmax of their scores."""
    rows = x.reshape(-1, x.shape[-1])
    shares, places = torch.softmax(scores, -1).topk(mixture.chosen, -1)
    if mixture.normalised:
        shares = shares / shares.sum(-1, keepdim=True)
    y = torch.zeros_like(rows)
    for n in range(first.shape[0]):
        tokens, ranks = (places == n).nonzero(as_tuple=True)
        hidden = functional.linear(rows[tokens], first[n], None if first_bias is None else first_bias[n])
        made = functional.linear(mixture.activation(hidden), second[n], None if second_bias is None else second_bias[n])
        y = y.index_add(0, tokens, made * shares[tokens, ranks].unsqueeze(1))
    return y.reshape(x.shape)


@operator("LinearAttentionGate", parameters=(1, 2), many=True)
def gate_attention(a: Tensor, shift: Tensor, factor: Tensor, b: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Decay factor softplus(a + shift), and the rate sigmoid(b), of linear attention."""
    return factor * functional.softplus(a + shift), None if b is None else torch.sigmoid(b)


def _read_sections(node: Node) -> dict[str, Any]:
    interleaved = bool(node.attributes.get("mrope_layout", 0))
    return {**read_rotation(node), "streams": _spread_sections(node.attributes["mrope_section"], interleaved=interleaved)}


def _spread_sections(sections: Sequence[int], *, interleaved: bool) -> tuple[int, ...]:
    """Return which stream of positions (time, height, width) each angle follows.

    >>> _spread_sections([2, 1, 1], interleaved=False), _spread_sections([2, 1, 1], interleaved=True)
    ((0, 0, 1, 2), (0, 1, 2, 0))
    """
    if not interleaved:
        return tuple(stream for stream, count in enumerate(sections) for _ in range(count))
    total = sum(sections)
    return tuple(place % 3 if place % 3 > 0 and place < sections[place % 3] * 3 else 0 for place in range(total))


@operator("MRotaryEmbedding", settings=(2, 3), prepare=_read_sections)
def rotate_by_streams(
    x: Tensor,
    positions: Tensor,
    cosines: Tensor,
    sines: Tensor,
    *,
    streams: Sequence[int],
    interleaved: bool,
    heads: int,
    width: int,
) -> Tensor:
    """Rotary positions of three streams (time, height, width), each of which turns its own angles."""
    chosen = torch.tensor(streams, device=x.device).reshape(1, 1, 1, -1).expand(1, *positions.shape[1:], -1)
    tables = [table[positions.to(x.device)].gather(0, chosen)[0] for table in (cosines, sines)]  # [B, T, angles]
    heads = heads or x.shape[-1] // (2 * cosines.shape[-1])
    found: Tensor = rotary_embedding(x, *tables, None, interleaved=interleaved, heads=heads, width=width)
    return found
