"""PyTorch's fused inference kernels of nn.TransformerEncoderLayer, as plain differentiable operations.

A layer traced without gradients holds one of these operators; the kernels behind them have no backward.
Arguments go by the names of the operators' schemas.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

KEY_PADDING = 1
"""mask_type of a mask [B, T] over the keys; 0 is [T, T], 2 is [B, heads, T, T]."""


def native_multi_head_attention(**given: Any) -> tuple[Tensor, Tensor | None]:
    """aten::_native_multi_head_attention on [B, T, C]: the mixed values and, if asked for, the weights."""
    width, heads = given["embed_dim"], given["num_head"]
    batch, length, _ = given["query"].shape
    streams = zip(
        (given["query"], given["key"], given["value"]), given["qkv_weight"].chunk(3), given["qkv_bias"].chunk(3), strict=True
    )
    split = [functional.linear(x, w, b).view(batch, -1, heads, width // heads).transpose(1, 2) for x, w, b in streams]
    weights = functional.softmax(_mask(split[0] @ split[1].transpose(-2, -1) * (width // heads) ** -0.5, given), dim=-1)
    mixed = (weights @ split[2]).transpose(1, 2).reshape(batch, length, width)
    output = functional.linear(mixed, given["proj_weight"], given["proj_bias"])
    if not given.get("need_weights", True):
        return output, None
    return output, weights.mean(1) if given.get("average_attn_weights", True) else weights


def _mask(scores: Tensor, given: dict[str, Any]) -> Tensor:
    mask: Tensor | None = given.get("mask")
    if mask is None:
        return scores
    if given.get("mask_type") == KEY_PADDING:
        mask = mask.view(len(mask), 1, 1, -1)
    return scores.masked_fill(mask, float("-inf")) if mask.dtype == torch.bool else scores + mask


def transformer_encoder_layer(**given: Any) -> Tensor:
    """aten::_transformer_encoder_layer_fwd on [B, T, C]."""
    attention = {name: given[name] for name in ("embed_dim", "qkv_weight", "qkv_bias", "proj_weight", "proj_bias")}
    masking = {name: given.get(name) for name in ("mask", "mask_type")}

    def attend(x: Tensor) -> Tensor:
        return native_multi_head_attention(
            query=x, key=x, value=x, num_head=given["num_heads"], need_weights=False, **attention, **masking
        )[0]

    def feed_forward(x: Tensor) -> Tensor:
        hidden = functional.linear(x, given["ffn_weight_1"], given["ffn_bias_1"])
        activated = functional.gelu(hidden) if given["use_gelu"] else functional.relu(hidden)
        return functional.linear(activated, given["ffn_weight_2"], given["ffn_bias_2"])

    def norm(x: Tensor, place: int) -> Tensor:
        return functional.layer_norm(
            x, [given["embed_dim"]], given[f"norm_weight_{place}"], given[f"norm_bias_{place}"], given["eps"]
        )

    x: Tensor = given["src"]
    if given["norm_first"]:
        x = x + attend(norm(x, 1))
        return x + feed_forward(norm(x, 2))
    x = norm(x + attend(x), 1)
    return norm(x + feed_forward(x), 2)
