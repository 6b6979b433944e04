"""Attention and rotary positions."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from worker.engine.models.onnx.operators.control import Runner
from worker.engine.models.onnx.registry import Family, Node

operator = Family("attention")


@dataclass(frozen=True)
class Settings:
    """What the attributes say; `window` is how many keys to the left and right a query sees, -1 for all."""

    heads: tuple[int, int] | None
    scale: float | None
    causal: bool
    softcap: float
    window: tuple[int, int]
    scores_mode: int | None
    caches: bool


def _read_settings(node: Node) -> dict[str, Any]:
    get = node.attributes.get
    heads = (get("q_num_heads", 0), get("kv_num_heads", 0))
    return {
        "settings": Settings(
            heads=heads if all(heads) else None,
            scale=get("scale"),
            causal=bool(get("is_causal", 0)),
            softcap=get("softcap", 0.0),
            window=(get("left_window_size", -1), get("right_window_size", -1)),
            scores_mode=get("qk_matmul_output_mode", 0) if node.has_output(3) else None,
            caches=node.has_output(1) or node.has_output(2),
        )
    }


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[B, T, heads x D] -> [B, heads, T, D]."""
    return x.reshape(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """[B, heads, T, D] -> [B, T, heads x D]."""
    return x.transpose(1, 2).flatten(2)


def share_heads(query: Tensor, other: Tensor) -> Tensor:
    """Repeat the heads of keys, values or states until each query head has one: neighbours share."""
    groups = query.shape[1] // other.shape[1]
    return other if groups == 1 else other.repeat_interleave(groups, 1)


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None, *, causal: bool = False
) -> Tensor:
    """softmax(scale q k^T + mask) v; keys' and values' heads are shared by groups of query heads."""
    key, value = share_heads(query, key), share_heads(query, value)
    return functional.scaled_dot_product_attention(query, key, value, mask, is_causal=causal, scale=scale)


def _find_allowed(query: Tensor, key: Tensor, offset: Tensor | int, settings: Settings) -> Tensor | None:
    """Return which keys each query may see by causality, window: [T, S], or [B, 1, T, S] with offsets per example."""
    left, right = settings.window
    if settings.causal:
        right = 0 if right < 0 else min(right, 0)
    if left < 0 and right < 0:
        return None
    rows = torch.arange(query.shape[2], device=query.device).unsqueeze(1) + offset
    distance = torch.arange(key.shape[2], device=query.device) - rows
    seen = torch.ones_like(distance, dtype=torch.bool)
    if right >= 0:
        seen = seen & (distance <= right)
    return seen & (distance >= -left) if left >= 0 else seen


def _join_masks(mask: Tensor | None, seen: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    if mask is None or seen is None:
        return seen if mask is None else mask
    if mask.dtype == torch.bool:
        return mask & seen
    return mask.to(dtype).masked_fill(~seen, -math.inf) if mask.shape[-2:] == seen.shape[-2:] else mask + _to_bias(seen, dtype)


def _to_bias(seen: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, -math.inf)


def _fit_mask(mask: Tensor | None, length: int) -> Tensor | None:
    if mask is None or mask.shape[-1] in {1, length}:
        return mask
    missing = length - mask.shape[-1]
    return functional.pad(mask, (0, missing), value=False if mask.dtype == torch.bool else -math.inf)


@operator("Attention", since=23, prepare=_read_settings, many=True)
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    lengths: Tensor | None = None,
    *,
    settings: Settings,
) -> tuple[Tensor | None, ...]:
    """Scaled dot-product attention with grouped heads, masks, causality, windows, soft cap and caches."""
    joined = query.ndim == 3 and settings.heads is not None
    if joined and settings.heads is not None:
        many, few = settings.heads
        query, key, value = split_heads(query, many), split_heads(key, few), split_heads(value, few)
    offset: Tensor | int = 0
    if past_key is not None and past_value is not None:
        offset = past_key.shape[2]
        key, value = torch.cat((past_key, key), 2), torch.cat((past_value, value), 2)
    mask = _fit_mask(mask, key.shape[2])
    if lengths is not None:
        ends = lengths.to(query.device).reshape(-1, 1, 1, 1)
        offset = ends - query.shape[2]
        mask = _join_masks(mask, torch.arange(key.shape[2], device=query.device) < ends, query.dtype)
    plain = settings.softcap == 0 and settings.scores_mode is None
    if plain and mask is None and isinstance(offset, int) and offset == 0 and settings.window == (-1, -1):
        y, scores = attend(query, key, value, None, settings.scale, causal=settings.causal), None
    else:
        mask = _join_masks(mask, _find_allowed(query, key, offset, settings), query.dtype)
        attended = attend(query, key, value, mask, settings.scale) if plain else None
        y, scores = (attended, None) if attended is not None else _attend_slowly(query, key, value, mask, settings)
    return (join_heads(y) if joined else y, key, value, scores)


def _attend_slowly(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, settings: Settings) -> tuple[Tensor, Tensor]:
    """Attention with its intermediate scores in sight."""
    key, value = share_heads(query, key), share_heads(query, value)
    scale = query.shape[-1] ** -0.5 if settings.scale is None else settings.scale
    raw = scale * query @ key.transpose(-1, -2)
    capped = settings.softcap * torch.tanh(raw / settings.softcap) if settings.softcap else raw
    biased = capped
    if mask is not None:
        biased = capped + (_to_bias(mask, capped.dtype) if mask.dtype == torch.bool else mask)
    hidden = (biased == -math.inf).all(-1, keepdim=True)
    weights = torch.softmax(biased.masked_fill(hidden, 0.0), -1).masked_fill(hidden, 0.0)
    return weights @ value, (raw, capped, biased, weights)[settings.scores_mode or 0]


def _read_flexible(node: Node) -> dict[str, Any]:
    return {"scale": node.attributes.get("scale"), "precision": node.attributes.get("softmax_precision")}


@operator(
    "FlexAttention", domain="ai.onnx.preview", blocks=("score_mod", "prob_mod"), optional_blocks=True, prepare=_read_flexible
)
def flexible_attention(
    runners: tuple[Runner, ...], query: Tensor, key: Tensor, value: Tensor, *, scale: float | None, precision: torch.dtype | None
) -> Tensor:
    """Attention whose scores and probabilities blocks of the model change."""
    change_scores, change_probabilities = runners
    key, value = share_heads(query, key), share_heads(query, value)
    dtype = precision or torch.promote_types(query.dtype, torch.float32)
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    (scores,) = change_scores((query * factor @ key.transpose(-1, -2)).to(dtype))
    (probabilities,) = change_probabilities(torch.softmax(scores, -1))
    return (probabilities @ value.to(dtype)).to(value.dtype)


def _read_recurrence(node: Node) -> dict[str, Any]:
    get = node.attributes.get
    return {"heads": get("q_num_heads"), "shared": get("kv_num_heads"), "scale": get("scale", 0.0) or None}


@operator("LinearAttention", since=27, prepare=_read_recurrence, many=True)
def linear_attention(  # noqa: PLR0913 - the standard's six inputs
    query: Tensor,
    key: Tensor,
    value: Tensor,
    past: Tensor | None = None,
    decay: Tensor | None = None,
    beta: Tensor | None = None,
    *,
    heads: int,
    shared: int,
    scale: float | None,
) -> tuple[Tensor, Tensor]:
    """Attention by a state that decays, is corrected and grows by k v^T per step; the rule follows from the inputs given."""
    dtype = torch.promote_types(query.dtype, torch.float32)
    q, k, v = (
        split_heads(part.to(dtype), count) for part, count in ((query, heads), (key, shared), (value, shared))
    )  # [B, heads, T, D]
    gates = None if decay is None else split_heads(decay.to(dtype), shared).exp().unsqueeze(-1)
    rates = None if beta is None else split_heads(beta.to(dtype), beta.shape[-1])
    state = k.new_zeros(*k.shape[:2], k.shape[-1], v.shape[-1]) if past is None else past.to(dtype)
    outputs = []
    for t in range(q.shape[2]):
        step_key, step_value = k[:, :, t].unsqueeze(-1), v[:, :, t].unsqueeze(-2)
        state = state if gates is None else state * gates[:, :, t]
        if rates is not None:
            step_value = rates[:, :, t].unsqueeze(-1) * (step_value - step_key.transpose(-1, -2) @ state)
        state = state + step_key * step_value
        outputs.append(q[:, :, t].unsqueeze(-2) @ share_heads(q, state))
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    y = join_heads(torch.cat(outputs, 2) * factor)
    return y.to(query.dtype), state.to(query.dtype if past is None else past.dtype)


def _read_rotation(node: Node) -> dict[str, Any]:
    get = node.attributes.get
    return {"interleaved": bool(get("interleaved", 0)), "heads": get("num_heads", 0), "width": get("rotary_embedding_dim", 0)}


@operator("RotaryEmbedding", since=23, settings=(1, 2), prepare=_read_rotation)
def rotary_embedding(
    x: Tensor, cosines: Tensor, sines: Tensor, positions: Tensor | None = None, *, interleaved: bool, heads: int, width: int
) -> Tensor:
    """Rotate pairs of features by an angle that grows with the position."""
    joined = x.ndim == 3
    rows = x.reshape(x.shape[0], x.shape[1], heads, -1) if joined else x.transpose(1, 2)  # [B, T, heads, D]
    width = width or rows.shape[-1]
    if positions is not None:
        cosines, sines = cosines[positions.to(x.device)], sines[positions.to(x.device)]
    cosines, sines = (table[..., : width // 2].unsqueeze(2) for table in (cosines, sines))
    turned, kept = rows[..., :width], rows[..., width:]
    a, b = (turned[..., 0::2], turned[..., 1::2]) if interleaved else turned.chunk(2, -1)
    real, imaginary = cosines * a - sines * b, sines * a + cosines * b
    turned = torch.stack((real, imaginary), -1).flatten(-2) if interleaved else torch.cat((real, imaginary), -1)
    y = torch.cat((turned, kept), -1)
    return y.reshape(x.shape) if joined else y.transpose(1, 2)
