"""Attention as ONNX Runtime's optimiser and its exporters of language models write it (domain com.microsoft)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from worker.engine.models.onnx.operators.attention import (
    attend,
    join_heads,
    linear_attention,
    rotary_embedding,
    share_heads,
    split_heads,
)
from worker.engine.models.onnx.registry import Family, Node, UncoveredError

operator = Family("com.microsoft attention", "com.microsoft")

MASKED = -10000.0
"""What the runtime adds to the score of a masked key unless told otherwise."""


@dataclass(frozen=True)
class Heads:
    """What the attributes say of plain attention; `masked` is added to the scores of masked keys."""

    count: int
    causal: bool
    scale: float | None
    masked: float
    outputs: int


def read_heads(node: Node) -> Heads:
    """Return what the attributes say of plain attention."""
    get = node.attributes.get
    return Heads(
        node.attributes["num_heads"],
        bool(get("unidirectional", 0)),
        get("scale"),
        get("mask_filter_value", MASKED),
        len(node.outputs),
    )


def _find_bias(heads: Heads, query: Tensor, key: Tensor, mask: Tensor | None, added: Tensor | None, before: int) -> Tensor | None:
    """Return what is added to the scores of query [B, H, T, D] and key [B, H, S, D], `before` of which are past, or None."""
    bias = None if mask is None else torch.where(_spread_mask(mask, query, key), 0.0, heads.masked).to(query.dtype)
    if heads.causal:
        seen = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device)
        hidden = seen.triu(before + 1)
        bias = query.new_zeros(hidden.shape) if bias is None else bias
        bias = bias.masked_fill(hidden, torch.finfo(query.dtype).min)
    if added is None or bias is None:
        return added if bias is None else bias
    return bias + added


def _spread_mask(mask: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """Return a mask in any of its forms as booleans [B, 1, T or 1, S]: true where a key may be seen."""
    batch, size = query.shape[0], key.shape[2]
    mask = mask.to(query.device)
    places = torch.arange(size, device=query.device)
    if mask.ndim == 1:
        seen = places < mask[:batch].unsqueeze(1)
        seen = seen & (places >= mask[batch:].unsqueeze(1)) if len(mask) == 2 * batch else seen
        return seen[:, None, None]
    if mask.ndim == 2:
        return mask[:, None, None] > 0
    return mask.unsqueeze(1) > 0 if mask.ndim == 3 else mask[..., size - query.shape[2] : size, :size] > 0


def _run(
    heads: Heads, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, added: Tensor | None, before: int
) -> Tensor:
    if heads.causal and mask is None and added is None and before == 0:
        return join_heads(attend(query, key, value, None, heads.scale, causal=True))
    return join_heads(attend(query, key, value, _find_bias(heads, query, key, mask, added, before), heads.scale))


def _read_self_attention(node: Node) -> dict[str, Any]:
    get = node.attributes.get
    if get("do_rotary", 0) or get("past_present_share_buffer", 0) or node.has_input(6):
        message = "with rotary positions or a shared cache is not supported"
        raise UncoveredError(message)
    return {"heads": read_heads(node), "widths": get("qkv_hidden_sizes")}


@operator("Attention", parameters=(1, 2), prepare=_read_self_attention, many=True)
def self_attention(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    past: Tensor | None = None,
    added: Tensor | None = None,
    *,
    heads: Heads,
    widths: Sequence[int] | None,
) -> tuple[Tensor, Tensor | None]:
    """Self-attention with one joint projection to query, key and value; also keys and values as the next state."""
    joint = torch.matmul(x, weight) if bias is None else torch.matmul(x, weight) + bias
    return attend_jointly(joint, mask, past, added, heads=heads, widths=widths)


def attend_jointly(
    joint: Tensor, mask: Tensor | None, past: Tensor | None, added: Tensor | None, *, heads: Heads, widths: Sequence[int] | None
) -> tuple[Tensor, Tensor | None]:
    """Return the attention of query, key and value that lie one after another, and keys and values as the next state."""
    parts = joint.chunk(3, -1) if widths is None else joint.split(list(widths), -1)
    query, key, value = (split_heads(part, heads.count) for part in parts)
    if past is not None:
        key, value = torch.cat((past[0], key), 2), torch.cat((past[1], value), 2)
    present = torch.stack((key, value)) if heads.outputs > 1 else None
    return _run(heads, query, key, value, mask, added, 0 if past is None else past.shape[3]), present


def _read_multi_head(node: Node) -> dict[str, Any]:
    if not node.has_input(2) or any(node.has_input(slot) for slot in (8, 9)) or node.has_output(3):
        message = "with packed inputs, a shared cache, beams or scores as an output is not supported"
        raise UncoveredError(message)
    return {"heads": read_heads(node)}


@operator("MultiHeadAttention", parameters=(3,), prepare=_read_multi_head, many=True)
def multi_head_attention(  # noqa: PLR0913 - the runtime's inputs
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    added: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    *,
    heads: Heads,
) -> tuple[Tensor, Tensor, Tensor]:
    """Attention over projected query, key and value, with their joint bias; also keys and values."""
    if bias is not None:
        width = query.shape[-1]
        query_bias, key_bias, value_bias = bias.split([width, width, len(bias) - 2 * width])
        query = query + query_bias
        if key.ndim == 3:
            key, value = key + key_bias, value + value_bias
    q, k, v = (split_heads(part, heads.count) if part.ndim == 3 else part for part in (query, key, value))
    if past_key is not None and past_value is not None:
        k, v = torch.cat((past_key, k), 2), torch.cat((past_value, v), 2)
    return _run(heads, q, k, v, mask, added, 0 if past_key is None else past_key.shape[2]), k, v


def read_rotation(node: Node) -> dict[str, Any]:
    """Return the arguments that all rotary positions have."""
    get = node.attributes.get
    if get("is_packed_batching", 0) or get("scale", 1.0) != 1.0:
        message = "with packed batches or a scale is not supported"
        raise UncoveredError(message)
    return {"interleaved": bool(get("interleaved", 0)), "heads": get("num_heads", 0), "width": get("rotary_embedding_dim", 0)}


@operator("RotaryEmbedding", settings=(2, 3), prepare=read_rotation)
def rotate(x: Tensor, positions: Tensor, cosines: Tensor, sines: Tensor, *, interleaved: bool, heads: int, width: int) -> Tensor:
    """Rotate pairs of features by an angle that grows with the position."""
    steps = x.shape[1] if x.ndim == 3 else x.shape[2]
    if positions.ndim == 1:
        positions = positions.to(x.device) + torch.arange(steps, device=x.device).expand(x.shape[0], -1)
    heads = heads or x.shape[-1] // (2 * cosines.shape[-1])
    return rotary_embedding(x, cosines, sines, positions, interleaved=interleaved, heads=heads, width=width)


@dataclass(frozen=True)
class Groups:
    """What the attributes say of attention with shared keys; `sink` adds one to the softmax's denominator."""

    heads: int
    shared: int
    scale: float | None
    softcap: float
    causal: bool
    window: int
    rotary: bool
    interleaved: bool
    sink: bool


def _read_groups(node: Node) -> dict[str, Groups]:
    get = node.attributes.get
    quantised = any(get(name, "NONE") != "NONE" for name in ("k_quant_type", "v_quant_type"))
    if quantised or get("sliding_window_cache", 0) or any(node.has_input(slot) for slot in range(12, 17)) or node.has_output(3):
        message = "with a quantised or sliding cache, own normalisation, padded chunks or scores as an output is not supported"
        raise UncoveredError(message)
    return {
        "groups": Groups(
            heads=node.attributes["num_heads"],
            shared=node.attributes["kv_num_heads"],
            scale=get("scale", 0.0) or None,
            softcap=get("softcap", 0.0),
            causal=bool(get("causal", 1)),
            window=get("local_window_size", -1),
            rotary=bool(get("do_rotary", 0)),
            interleaved=bool(get("rotary_interleaved", 0)),
            sink=bool(get("smooth_softmax", 0)),
        )
    }


@operator("GroupQueryAttention", settings=(7, 8), sizes=(6,), parameters=(11,), prepare=_read_groups, many=True)
def grouped_attention(  # noqa: PLR0913, PLR0917 - the runtime's inputs
    query: Tensor,
    key: Tensor | None,
    value: Tensor | None,
    past_key: Tensor | None,
    past_value: Tensor | None,
    lengths: Tensor,
    total: Tensor,
    cosines: Tensor | None = None,
    sines: Tensor | None = None,
    positions: Tensor | None = None,
    added: Tensor | None = None,
    sink: Tensor | None = None,
    *,
    groups: Groups,
) -> tuple[Tensor, Tensor, Tensor]:
    """Attention whose keys are shared by groups of heads, with rotary positions and a cache; also the next cache."""
    if key is None or value is None:
        width = query.shape[-1] // (groups.heads + 2 * groups.shared)
        query, key, value = query.split([groups.heads * width, groups.shared * width, groups.shared * width], -1)
    q, k, v = split_heads(query, groups.heads), split_heads(key, groups.shared), split_heads(value, groups.shared)
    ends = lengths.to(q.device).reshape(-1, 1) + 1
    steps, last = q.shape[2], int(total)
    starts = ends - steps if steps != last else torch.zeros_like(ends)  # [B, 1]: how many keys were there before
    places = starts + torch.arange(steps, device=q.device)  # [B, T]
    if groups.rotary and cosines is not None and sines is not None:
        turned = places.clamp(min=0) if positions is None else positions.to(q.device)
        options: dict[str, Any] = {"interleaved": groups.interleaved, "heads": 0, "width": 2 * cosines.shape[-1]}
        q, k = (rotary_embedding(part, cosines, sines, turned, **options) for part in (q, k))
    k, v = (_append(part, past, places, ends, last) for part, past in ((k, past_key), (v, past_value)))
    seen = _find_seen(places, ends, k.shape[2], groups)
    return join_heads(_attend_groups(q, k, v, seen, added, sink, groups)), k, v


def _append(part: Tensor, past: Tensor | None, places: Tensor, ends: Tensor, total: int) -> Tensor:
    """Write new keys or values [B, H, T, D] into the cache at each example's own places; what lies behind them is zero."""
    if past is None or past.shape[2] == 0:
        return part
    room = max(total, past.shape[2]) - past.shape[2]
    cache = torch.cat((past, past.new_zeros(*past.shape[:2], room, past.shape[3])), 2)
    cache = cache.scatter(2, places[:, None, :, None].expand(-1, part.shape[1], -1, part.shape[3]), part)
    empty = torch.arange(cache.shape[2], device=cache.device) >= ends  # [B, S]
    return cache.masked_fill(empty[:, None, :, None], 0.0)


def _find_seen(places: Tensor, ends: Tensor, size: int, groups: Groups) -> Tensor:
    """Return which keys each query sees: [B, 1, T, S]."""
    keys = torch.arange(size, device=places.device)
    if not groups.causal:
        return (keys < ends)[:, None, None].expand(-1, 1, places.shape[1], -1)
    distance = places.unsqueeze(-1) - keys
    seen = (distance >= 0) & (keys < ends.unsqueeze(-1))
    return (seen & (distance < groups.window) if groups.window > 0 else seen).unsqueeze(1)


def _attend_groups(
    query: Tensor, key: Tensor, value: Tensor, seen: Tensor, added: Tensor | None, sink: Tensor | None, groups: Groups
) -> Tensor:
    plain = groups.softcap == 0 and sink is None and not groups.sink
    bias = query.new_zeros(seen.shape).masked_fill(~seen, -math.inf)
    bias = bias if added is None else bias + added[..., : seen.shape[-1]]
    if plain:
        return attend(query, key, value, bias, groups.scale)
    key, value = share_heads(query, key), share_heads(query, value)
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if groups.scale is None else groups.scale)
    scores = groups.softcap * torch.tanh(scores / groups.softcap) if groups.softcap else scores
    scores = scores + bias
    if sink is None and not groups.sink:
        return torch.softmax(scores, -1) @ value
    extra = scores.new_zeros(1) if sink is None else sink
    column = extra.reshape(1, -1, 1, 1).expand(*scores.shape[:3], 1)
    return torch.softmax(torch.cat((scores, column), -1), -1)[..., :-1] @ value


def _read_recurrence(node: Node) -> dict[str, Any]:
    get = node.attributes.get
    heads, shared = node.attributes["q_num_heads"], node.attributes["kv_num_heads"]
    if get("state_window", 0) or shared > heads:
        message = "with a window of states or more heads of keys than of queries is not supported"
        raise UncoveredError(message)
    return {"heads": heads, "shared": shared, "scale": get("scale", 0.0) or None}


operator("LinearAttention", prepare=_read_recurrence, many=True)(linear_attention)
