"""Operators on channels in blocks of 8 or 16, which ONNX Runtime's optimiser writes at level all (domain com.microsoft.nchwc).

Values are [N, C, ...] here, C filled with zeros to whole blocks; only the stored weights lie in blocks. A block has as many
channels as a vector of the processor that the file was written on has numbers; the file does not say how many (`blocks`).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from worker.engine.models.onnx.operators.convolution import conv, read_convolution
from worker.engine.models.onnx.operators.interpolation import Rule
from worker.engine.models.onnx.operators.microsoft import read_activation
from worker.engine.models.onnx.operators.pooling import (
    global_max_pool,
    global_mean_pool,
    max_pool,
    mean_pool,
    read_max_pool,
    read_mean_pool,
)
from worker.engine.models.onnx.operators.resizing import upsample
from worker.engine.models.onnx.registry import BLOCKED, Family, Node

operator = Family("channels in blocks", BLOCKED)

operator("MaxPool", prepare=read_max_pool)(max_pool)
operator("AveragePool", prepare=read_mean_pool)(mean_pool)
operator("GlobalMaxPool")(global_max_pool)
operator("GlobalAveragePool")(global_mean_pool)


def _read_reordering(node: Node) -> dict[str, Any]:
    return {"block": 0, "channels_last": bool(node.attributes.get("channels_last", 0))}


@operator("ReorderInput", prepare=_read_reordering)
def enter_blocks(x: Tensor, *, block: int, channels_last: bool) -> Tensor:
    """Channels first, filled to whole blocks."""
    x = x.movedim(-1, 1) if channels_last else x
    missing = -x.shape[1] % block
    return torch.cat((x, x.new_zeros(x.shape[0], missing, *x.shape[2:])), 1) if missing else x


def _read_result(node: Node) -> dict[str, Any]:
    return {"channels": node.attributes["channels"], "channels_last": bool(node.attributes.get("channels_last", 0))}


@operator("ReorderOutput", prepare=_read_result)
def leave_blocks(x: Tensor, *, channels: int, channels_last: bool) -> Tensor:
    """The channels without those that fill the last block, first or last."""
    x = x[:, :channels]
    return x.movedim(1, -1) if channels_last else x


def _read_conv(node: Node) -> dict[str, Any]:
    return {"block": 0, "activation": read_activation(node), "arguments": read_convolution(node)}


@operator("Conv", parameters=(0, 1, 2), prepare=_read_conv)
def blocked_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    added: Tensor | None = None,
    *,
    block: int,
    activation: Callable[[Tensor], Tensor],
    arguments: dict[str, Any],
) -> Tensor:
    """Convolution by a weight that lies in blocks, plus a tensor, then an activation."""
    y = conv(x, unblock(weight, block), bias, **arguments)
    return activation(y if added is None else y + added)


def unblock(weight: Tensor, block: int) -> Tensor:
    """Return a convolution's weight [O, I, *kernel], stored as [O / b, I / b, *kernel, b of I, b of O], in its plain order.

    Where I is less than a block, its channels are not in blocks: [O / b, I, *kernel, b of O].
    """
    outer, inner, *kernel = weight.shape
    step = block if inner >= block else 1
    parts = weight.reshape(outer // block, inner // step, *kernel, step, block)
    return parts.movedim(-1, 1).movedim(-1, 3).reshape(weight.shape)


def _read_upsample(node: Node) -> dict[str, Any]:
    get = node.attributes.get
    rule = Rule(get("mode", "nearest"), get("coordinate_transformation_mode", "asymmetric"))
    return {"scales": [float(scale) for scale in node.attributes["scales"]], "rule": rule}


operator("Upsample", prepare=_read_upsample)(upsample)
