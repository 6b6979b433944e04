"""Stored tensors: ONNX's data types and TensorProto in torch's terms."""

import math
from typing import NamedTuple

import numpy as np
import torch
from onnx import TensorProto
from torch import Tensor

DTYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.UINT8: torch.uint8,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.BOOL: torch.bool,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.UINT16: torch.uint16,
    TensorProto.UINT32: torch.uint32,
    TensorProto.UINT64: torch.uint64,
    TensorProto.FLOAT8E4M3FN: torch.float8_e4m3fn,
    TensorProto.FLOAT8E4M3FNUZ: torch.float8_e4m3fnuz,
    TensorProto.FLOAT8E5M2: torch.float8_e5m2,
    TensorProto.FLOAT8E5M2FNUZ: torch.float8_e5m2fnuz,
}
"""The types of values. Integers of less than a byte are stored only: torch cannot tell them from int8 and uint8."""
UNSTORED = frozenset(code for code, dtype in DTYPES.items() if dtype.is_floating_point and dtype.itemsize == 1)
"""Types that values may pass through and stored tensors may not have: eight-bit floats have no arithmetic."""


class NarrowType(NamedTuple):
    """An integer type of less than a byte. The file packs such integers, the first in the lowest bits; we hold one to a byte."""

    bits: int
    signed: bool

    @property
    def limits(self) -> tuple[int, int]:
        """The smallest and the largest number."""
        return (-(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1) if self.signed else (0, 2**self.bits - 1)

    @property
    def dtype(self) -> torch.dtype:
        """The type that holds one."""
        return torch.int8 if self.signed else torch.uint8


NARROW: dict[int, NarrowType] = {
    TensorProto.INT2: NarrowType(2, signed=True),
    TensorProto.UINT2: NarrowType(2, signed=False),
    TensorProto.INT4: NarrowType(4, signed=True),
    TensorProto.UINT4: NarrowType(4, signed=False),
}
STORED_DTYPES = {
    **{code: dtype for code, dtype in DTYPES.items() if code not in UNSTORED},
    **{code: narrow.dtype for code, narrow in NARROW.items()},
}
"""What stored tensors may be; integers of less than a byte are meant as codes and zero points of a grid."""

_TYPED_FIELDS: dict[int, tuple[str, type[np.generic]]] = {
    TensorProto.FLOAT: ("float_data", np.float32),
    TensorProto.DOUBLE: ("double_data", np.float64),
    TensorProto.INT64: ("int64_data", np.int64),
    TensorProto.UINT8: ("int32_data", np.uint8),
    TensorProto.INT8: ("int32_data", np.int8),
    TensorProto.INT16: ("int32_data", np.int16),
    TensorProto.INT32: ("int32_data", np.int32),
    TensorProto.UINT16: ("int32_data", np.uint16),
    TensorProto.UINT32: ("uint64_data", np.uint32),
    TensorProto.UINT64: ("uint64_data", np.uint64),
    TensorProto.BOOL: ("int32_data", np.bool_),
    TensorProto.FLOAT16: ("int32_data", np.uint16),  # the bits
    TensorProto.BFLOAT16: ("int32_data", np.uint16),  # the bits
    **dict.fromkeys(NARROW, ("int32_data", np.uint8)),  # packed
}


class TensorError(Exception):
    """The stored bytes do not fit the declared type and shape; `refused` when the type itself is not supported."""

    def __init__(self, message: str, *, refused: bool = False) -> None:
        self.refused = refused
        super().__init__(message)


def name_dtype(code: int) -> str:
    """Return ONNX's name of a data type code, also for codes from the future."""
    return TensorProto.DataType.Name(code) if code in TensorProto.DataType.values() else str(code)


def unpack(packed: Tensor, narrow: NarrowType, shape: tuple[int, ...]) -> Tensor:
    """Return integers of less than a byte, one to a byte.

    >>> unpack(torch.tensor([0xF1], dtype=torch.uint8), NarrowType(4, signed=True), (2,)).tolist()
    [1, -1]
    """
    shifts = torch.arange(0, 8, narrow.bits, dtype=torch.uint8)
    codes = (packed.reshape(-1, 1) >> shifts).bitwise_and(2**narrow.bits - 1).reshape(-1)
    codes = codes[: math.prod(shape)].reshape(shape).to(narrow.dtype)
    half = -narrow.limits[0]
    return codes.bitwise_xor(half).sub(half) if narrow.signed else codes


def compute_size_bytes(tensor: TensorProto) -> int:
    """Return how many bytes the declared shape needs, before anything is allocated.

    Args:
        tensor: a stored tensor of any location.

    Returns:
        The number of elements times the bytes of one.

    Raises:
        TensorError: the type is not supported or a dimension is negative.
    """
    if tensor.data_type not in STORED_DTYPES:
        message = f"tensor {tensor.name!r} has the type {name_dtype(tensor.data_type)}"
        raise TensorError(message, refused=True)
    if any(size < 0 for size in tensor.dims):
        message = f"tensor {tensor.name!r} declares the shape {list(tensor.dims)}"
        raise TensorError(message)
    if tensor.data_type in NARROW:
        return -(-math.prod(tensor.dims) * NARROW[tensor.data_type].bits // 8)
    return math.prod(tensor.dims) * STORED_DTYPES[tensor.data_type].itemsize


def read_tensor(tensor: TensorProto, raw: bytearray | None = None) -> Tensor:
    """Read a stored tensor into memory of its own.

    Args:
        tensor: the stored tensor.
        raw: its bytes when they lie outside the file; the tensor takes them over.

    Returns:
        A CPU tensor in the stored type and shape; integers of less than a byte come one to a byte.

    Raises:
        TensorError: the type is not supported, or the stored data does not fill the declared shape exactly.
    """
    expected = compute_size_bytes(tensor)
    content = raw if raw is not None else bytearray(_find_content(tensor))
    if len(content) != expected:
        message = f"tensor {tensor.name!r} of shape {list(tensor.dims)} needs {expected} bytes, the file has {len(content)}"
        raise TensorError(message)
    dtype = STORED_DTYPES[tensor.data_type]
    if expected == 0:
        return torch.empty(tuple(tensor.dims), dtype=dtype)
    if tensor.data_type in NARROW:
        return unpack(torch.frombuffer(content, dtype=torch.uint8), NARROW[tensor.data_type], tuple(tensor.dims))
    if dtype == torch.bool:  # a stored 2 is true as well
        return torch.frombuffer(content, dtype=torch.uint8).ne(0).reshape(tuple(tensor.dims))
    return torch.frombuffer(content, dtype=dtype).reshape(tuple(tensor.dims))


def _find_content(tensor: TensorProto) -> bytes:
    if tensor.HasField("raw_data"):
        return tensor.raw_data
    field, dtype = _TYPED_FIELDS[tensor.data_type]
    return np.asarray(getattr(tensor, field)).astype(dtype).tobytes()
