"""Products with weights of a few bits, packed in blocks along their columns (domain com.microsoft)."""

from typing import Any

import torch
from torch import Tensor

from worker.engine.models.onnx.registry import Family, Node, UncoveredError
from worker.engine.models.onnx.tensors import NarrowType, unpack
from worker.engine.models.program import Grid, Likeness

operator = Family("com.microsoft, packed")

PACKED_BITS = frozenset({2, 4, 8})


def _read_packing(node: Node) -> dict[str, Any]:
    attributes = node.attributes
    if node.has_input(4) or attributes.get("bits", 4) not in PACKED_BITS:
        message = "with an order of its blocks, or with other than 2, 4 or 8 bits, is not supported"
        raise UncoveredError(message)
    return {name: attributes[key] for name, key in (("rows", "N"), ("columns", "K"), ("block", "block_size"))} | {
        "bits": attributes.get("bits", 4)
    }


@operator(
    "MatMulNBits",
    domain="com.microsoft",
    settings=(2, 3),
    parameters=(5,),
    prepare=_read_packing,
    like=Likeness("linear", (0, 1, 5)),
)
def matmul_packed(
    a: Tensor,
    weight: Tensor,
    scales: Tensor | None = None,
    zero_points: Tensor | None = None,
    order: Tensor | None = None,
    bias: Tensor | None = None,
    **packing: int,
) -> Tensor:
    """A W^T + bias; W is stored packed, in blocks with a scale each, and is a weight in real units."""
    if scales is not None:
        grid = unpack_grid(weight, scales, zero_points, **packing)
        weight = grid.decode(grid.codes)
    y = torch.matmul(a, weight.t().to(a.dtype))
    return y if bias is None else y + bias


def unpack_grid(
    packed: Tensor, scales: Tensor, zero_points: Tensor | None, *, rows: int, columns: int, bits: int, block: int
) -> Grid:
    """Return the grid of packed codes, one code to a byte: [rows, columns]."""
    narrow, blocks = NarrowType(bits, signed=False), -(-columns // block)

    def spread(values: Tensor) -> Tensor:
        return values.repeat_interleave(block, 1)[:, :columns]

    codes = _unpack(packed.reshape(rows, -1), narrow)[:, : blocks * block].reshape(rows, -1)[:, :columns]
    middle = torch.full((1, 1), 2.0 ** (bits - 1))
    if zero_points is None:
        offsets = middle
    elif zero_points.is_floating_point():
        offsets = spread(zero_points.reshape(rows, blocks))
    else:
        offsets = spread(_unpack(zero_points.reshape(rows, -1), narrow)[:, :blocks])
    return Grid(codes.contiguous(), spread(scales.reshape(rows, blocks)), offsets, bits if bits < 8 else 0)


def _unpack(packed: Tensor, narrow: NarrowType) -> Tensor:
    """Return the codes of each row."""
    rows, width = packed.shape
    return unpack(packed.reshape(-1), narrow, (rows, width * 8 // narrow.bits)) if narrow.bits < 8 else packed
