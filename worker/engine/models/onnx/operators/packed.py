"""Products with weights of a few bits, in blocks with a scale each, and embeddings of such (domain com.microsoft)."""

from typing import Any

import torch
from torch import Tensor

from worker.engine.models.onnx.operators.indexing import gather
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
        return values.repeat_interleave(min(block, columns), 1)[:, :columns]

    codes = _unpack(packed.reshape(rows, -1), narrow)[:, : blocks * block].reshape(rows, -1)[:, :columns]
    middle = torch.full((1, 1), 2.0 ** (bits - 1))
    if zero_points is None:
        offsets = middle
    elif zero_points.is_floating_point():
        offsets = spread(zero_points.reshape(rows, blocks))
    else:
        offsets = spread(_unpack(zero_points.reshape(rows, -1), narrow)[:, :blocks])
    return Grid(codes.contiguous(), spread(scales.reshape(rows, blocks)), offsets, bits if bits < 8 else 0)


def _read_table(node: Node) -> dict[str, Any]:
    get = node.attributes.get
    if get("bits", 4) not in PACKED_BITS:
        message = "with other than 2, 4 or 8 bits is not supported"
        raise UncoveredError(message)
    return {
        "axis": get("gather_axis", 0),
        "blocked": get("quantize_axis", 1),
        "block": get("block_size", 128),
        "bits": get("bits", 4),
    }


@operator(
    "GatherBlockQuantized",
    domain="com.microsoft",
    settings=(2, 3),
    parameters=(0,),
    prepare=_read_table,
    like=Likeness("gather", (0, 1)),
)
def gather_packed(
    table: Tensor, indices: Tensor, scales: Tensor | None = None, zero_points: Tensor | None = None, *, axis: int, **_: int
) -> Tensor:
    """Slices of a table that is stored in blocks, and is a weight in real units."""
    if scales is not None or zero_points is not None:
        message = "the table was not read off its grid"
        raise ValueError(message)
    found: Tensor = gather(table, indices, axis=axis)
    return found


def unpack_table(
    stored: Tensor, narrow: NarrowType | None, scales: Tensor, zero_points: Tensor | None, *, blocked: int, block: int, bits: int
) -> Grid:
    """Return the grid of a table of small integers, or of bytes that hold several of them side by side in their last axis."""
    is_packed = narrow is None and bits < 8
    codes = _unpack_last(stored, NarrowType(bits, signed=False)) if is_packed else stored

    def spread(values: Tensor) -> Tensor:
        return values.repeat_interleave(min(block, codes.shape[blocked]), blocked).narrow(blocked, 0, codes.shape[blocked])

    if zero_points is None:  # bytes are centred, small integers are what they say
        offsets = codes.new_full([1] * codes.ndim, 0 if narrow is not None else 2 ** (bits - 1))
    else:
        unpacked = _unpack_last(zero_points, NarrowType(bits, signed=False)) if is_packed else zero_points
        offsets = spread(unpacked.narrow(-1, 0, scales.shape[-1]))
    width = bits if narrow is None else narrow.bits
    return Grid(codes.contiguous(), spread(scales), offsets, width if width < 8 else 0)


def _unpack_last(packed: Tensor, narrow: NarrowType) -> Tensor:
    return unpack(packed.reshape(-1), narrow, (*packed.shape[:-1], packed.shape[-1] * 8 // narrow.bits))


def _unpack(packed: Tensor, narrow: NarrowType) -> Tensor:
    """Return the codes of each row."""
    rows, width = packed.shape
    return unpack(packed.reshape(-1), narrow, (rows, width * 8 // narrow.bits)) if narrow.bits < 8 else packed
