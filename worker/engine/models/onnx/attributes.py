"""Attributes of nodes as Python values, read once at load time."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from onnx import AttributeProto, NodeProto, TensorProto
from torch import Tensor

from worker.engine.models.onnx.registry import UncoveredError
from worker.engine.models.onnx.tensors import DTYPES, NARROW, name_dtype

DTYPE_ATTRIBUTES = frozenset({"to", "dtype", "output_dtype", "output_datatype", "stash_type", "softmax_precision"})
"""Integers that name a data type; as torch.dtype in Step.attributes they follow Program.cast."""

GRAPH_TYPES = frozenset({AttributeProto.GRAPH, AttributeProto.GRAPHS})
UNREAD_TYPES = GRAPH_TYPES | {AttributeProto.TYPE_PROTO}
"""Graphs are read elsewhere; the type of an empty optional says nothing that its value does not."""


def read_float(value: float) -> float:
    """Return the shortest decimal that is this float32, which is the number its author wrote.

    A float attribute is stored in 32 bits; 1e-5 arrives as 9.99999974e-06. In float32 both are the same
    number; in float64 the shortest decimal is the exact one.
    """
    return float(str(np.float32(value)))


READERS: dict[int, Callable[[AttributeProto], Any]] = {
    AttributeProto.INT: lambda entry: int(entry.i),
    AttributeProto.FLOAT: lambda entry: read_float(entry.f),
    AttributeProto.STRING: lambda entry: entry.s.decode("utf-8", "replace"),
    AttributeProto.INTS: lambda entry: tuple(entry.ints),
    AttributeProto.FLOATS: lambda entry: tuple(read_float(value) for value in entry.floats),
    AttributeProto.STRINGS: lambda entry: tuple(value.decode("utf-8", "replace") for value in entry.strings),
}


def read_attributes(node: NodeProto, read_tensor: Callable[[TensorProto], Tensor]) -> dict[str, Any]:
    """Return the node's attributes other than graphs and types: numbers, strings, tuples of them, tensors and torch dtypes.

    Raises UncoveredError for types outside the table.
    """
    return {
        entry.name: _read_attribute(entry, read_tensor)
        for entry in node.attribute
        if entry.type not in UNREAD_TYPES and not entry.ref_attr_name
    }


def _read_attribute(entry: AttributeProto, read_tensor: Callable[[TensorProto], Tensor]) -> Any:
    if entry.type == AttributeProto.INT and entry.name in DTYPE_ATTRIBUTES:
        return NARROW[entry.i] if entry.i in NARROW and entry.name == "output_dtype" else read_dtype(entry.i)
    if entry.type == AttributeProto.TENSOR:
        return read_tensor(entry.t)
    if entry.type not in READERS:
        message = f"has an attribute that is not supported: {entry.name}"
        raise UncoveredError(message)
    return READERS[entry.type](entry)


def read_dtype(code: int) -> torch.dtype:
    """Return torch's dtype for ONNX's number; raises UncoveredError for types that are not supported."""
    if code not in DTYPES:
        message = f"uses the data type {name_dtype(code)}, which is not supported"
        raise UncoveredError(message)
    return DTYPES[code]
