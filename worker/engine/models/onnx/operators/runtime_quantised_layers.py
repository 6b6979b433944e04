"""Whole layers with weights on a grid, as ONNX Runtime's quantiser writes them (domain com.microsoft)."""

from typing import Any

import torch
from torch import Tensor

from worker.engine.models.onnx.operators.microsoft import embed_layer_norm
from worker.engine.models.onnx.operators.microsoft_attention import Heads, attend_jointly, read_heads
from worker.engine.models.onnx.operators.quantisation import centre, quantise_dynamically
from worker.engine.models.onnx.operators.recurrent import Cell, Layer, drop_full_lengths, make_lstm_cell, read_lstm, run_loop
from worker.engine.models.onnx.operators.runtime_quantised import matmul_integer_to_float, read
from worker.engine.models.onnx.registry import Codes, Family, Node, UncoveredError
from worker.engine.models.program import Likeness

operator = Family("com.microsoft, quantised layers", "com.microsoft", rounds=True)

GATES = (0, 2)
"""A weight of a recurrent layer is [D, inputs, gates x H]; its scale is one per direction, or one per direction and column."""


def _multiply_dynamically(x: Tensor, codes: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Return x W; x is rounded to a uint8 grid that spans it, W [inputs, gates x H] has one scale or one per column."""
    steps, x_scale, x_zero = quantise_dynamically(x)
    sums = torch.matmul(centre(steps, x_zero, x.dtype), centre(codes, zero_point, x.dtype, -1))
    return sums * (x_scale * scale)


def _read_quantised_lstm(node: Node) -> dict[str, Layer]:
    if node.has_input(4) and node.attributes.get("direction", "forward") != "forward":
        # The runtime turns each sequence around by itself, so other steps share a grid.
        message = "with lengths and backward is not supported"
        raise UncoveredError(message)
    return read_lstm(node)


@operator(
    "DynamicQuantizeLSTM",
    settings=(8, 10),
    parameters=(3, 7),
    codes=(Codes(1, (8,), 9, GATES), Codes(2, (10,), 11, GATES)),
    prepare=_read_quantised_lstm,
    like=Likeness("lstm", tuple(range(8))),
    many=True,
)
def dynamic_quantize_lstm(  # noqa: PLR0913, PLR0917 - the runtime's inputs
    x: Tensor,
    W: Tensor,
    R: Tensor,
    B: Tensor | None,
    lengths: Tensor | None,
    hidden: Tensor | None,
    memory: Tensor | None,
    P: Tensor | None,
    w_scale: Tensor,
    w_zero: Tensor,
    r_scale: Tensor,
    r_zero: Tensor,
    *,
    layer: Layer,
) -> tuple[Tensor, ...]:
    """LSTM whose input, and the state before each step, are rounded to a uint8 grid that spans them."""
    directions, width = R.shape[:2]
    empty = x.new_zeros(directions, x.shape[1], width)
    biases = x.new_zeros(directions, 1) if B is None else B.unflatten(1, (2, -1)).sum(1)
    sums = torch.stack([_multiply_dynamically(x, W[n], w_scale[n], w_zero[n]) + biases[n] for n in range(directions)], 2)

    def make_cell(n: int) -> Cell:
        return make_lstm_cell(n, layer, lambda x, h: x[:, n] + _multiply_dynamically(h, R[n], r_scale[n], r_zero[n]), P)

    states = [empty if state is None else state for state in (hidden, memory)]
    cells = [make_cell(n) for n in range(directions)]
    y, lasts = run_loop(sums, cells, states, drop_full_lengths(lengths, x), reverse=layer.reverse)
    return (y, *lasts)


def _read_quantised_attention(node: Node) -> dict[str, Any]:
    if node.attributes.get("do_rotary", 0) or node.attributes.get("past_present_share_buffer", 0):
        message = "with rotary positions or a shared cache is not supported"
        raise UncoveredError(message)
    return {"heads": read_heads(node)}


@operator(
    "QAttention",
    settings=(3, 4),
    parameters=(2,),
    codes=(Codes(1, (4,), 7, -1),),
    prepare=_read_quantised_attention,
    like=Likeness("attention", (0, 1, 2, 5, 8)),
    many=True,
)
def quantised_attention(  # noqa: PLR0913, PLR0917 - the runtime's inputs
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    x_scale: Tensor,
    weight_scale: Tensor,
    mask: Tensor | None = None,
    x_zero: Tensor | None = None,
    weight_zero: Tensor | None = None,
    past: Tensor | None = None,
    *,
    heads: Heads,
) -> tuple[Tensor, Tensor | None]:
    """Self-attention with one joint projection of integers; also keys and values as the next state."""
    joint = matmul_integer_to_float(x, weight, x_scale, weight_scale, x_zero, weight_zero, bias)
    return attend_jointly(joint, mask, past, None, heads=heads, widths=None)


@operator(
    "QEmbedLayerNormalization",
    settings=tuple(range(8, 13)),
    codes=tuple(Codes(slot, (slot + 6,), slot + 11) for slot in range(2, 7)),
    like=Likeness("embedlayernormalization", tuple(range(8))),
    many=True,
)
def quantised_embed_layer_norm(
    words: Tensor, segments: Tensor | None, *others: Tensor | None, epsilon: float = 1e-12
) -> tuple[Tensor, Tensor]:
    """Layer normalisation of the sum of embeddings that are stored as integers; also lengths by the mask."""
    stored, mask, scales, zeros = others[:5], others[5], others[6:11], others[11:]
    reals = [
        None if codes is None or scale is None else read(codes, scale, zero)
        for codes, scale, zero in zip(stored, scales, zeros, strict=True)
    ]
    y, lengths, _ = embed_layer_norm(words, segments, *reals, mask, epsilon=epsilon)
    return y, lengths
