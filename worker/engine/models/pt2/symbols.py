"""The arithmetic on sizes that torch.export writes as nodes of their own: a table of targets, nothing is looked up by name."""

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from schemas.errors import DataMismatch, Fault
from worker.engine.models.aten.builtins import get_size


def choose(condition: Any, first: Any, second: Any) -> Any:
    """torch.sym_ite."""
    return first if condition else second


def get_stride(tensor: Tensor, dim: int | None = None) -> Any:
    """aten.sym_stride."""
    return list(tensor.stride()) if dim is None else tensor.stride(dim)


def check_scalar(holds: Any, message: str = "") -> tuple[()]:
    """aten._assert_scalar and aten._assert_async: give nothing.

    Args:
        holds: what the exporter found must be true of the data.
        message: what it says otherwise.

    Returns:
        No outputs.

    Raises:
        DataMismatch: if it is not.
    """
    if not holds:
        advice = "give inputs of the sizes and values that the model was exported for"
        raise DataMismatch(Fault("a check inside the model failed", where="forward", got=message, advice=advice))
    return ()


SIZE_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "_operator.add": operator.add,
    "_operator.sub": operator.sub,
    "_operator.mul": operator.mul,
    "_operator.truediv": operator.truediv,
    "_operator.floordiv": operator.floordiv,
    "_operator.mod": operator.mod,
    "_operator.pow": operator.pow,
    "_operator.neg": operator.neg,
    "_operator.pos": operator.pos,
    "_operator.eq": operator.eq,
    "_operator.ne": operator.ne,
    "_operator.lt": operator.lt,
    "_operator.le": operator.le,
    "_operator.gt": operator.gt,
    "_operator.ge": operator.ge,
    "_operator.and_": operator.and_,
    "_operator.or_": operator.or_,
    "_operator.lshift": operator.lshift,
    "_operator.rshift": operator.rshift,
    "math.trunc": math.trunc,
    "math.floor": math.floor,
    "math.ceil": math.ceil,
    "torch.sym_not": operator.not_,
    "torch.sym_int": int,
    "torch.sym_float": float,
    "torch.sym_max": max,
    "torch.sym_min": min,
    "torch.sym_ite": choose,
    "torch._sym_sqrt": math.sqrt,
    "torch.sym_sqrt": math.sqrt,
}
"""Functions of Python numbers."""

TENSOR_QUESTIONS: dict[str, Callable[..., Any]] = {
    "sym_size": get_size,
    "sym_stride": get_stride,
    "sym_numel": Tensor.numel,
    "sym_storage_offset": Tensor.storage_offset,
    "sym_is_contiguous": torch.Tensor.is_contiguous,
}
"""aten operators whose result depends on a tensor's shape only."""

VALUE_QUESTIONS: dict[str, Callable[..., Any]] = {"item": Tensor.item, "_local_scalar_dense": Tensor.item}
"""aten operators that make a Python number of a tensor's value."""

CHECKS: dict[str, Callable[..., Any]] = {"_assert_scalar": check_scalar, "_assert_async": check_scalar}

WITHOUT_EFFECT = frozenset({"_assert_tensor_metadata", "sym_constrain_range", "sym_constrain_range_for_size"})
"""aten operators that state what the exporter assumed. Devices and dtypes are the program's own."""
