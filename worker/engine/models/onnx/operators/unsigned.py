"""Unsigned integers of 16, 32 and 64 bits: torch stores them and lacks most of their arithmetic, so numpy computes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

WIDE = frozenset({torch.uint16, torch.uint32, torch.uint64})


def compute_unsigned(by_numpy: Callable[..., Any] | None, *values: Tensor) -> Tensor:
    """Return numpy's result where torch has no kernel for the operands' type; its integers wrap as ONNX asks.

    Called while torch's NotImplementedError is handled, which is raised again when unsigned integers are not its cause.
    """
    if by_numpy is None or not any(value.dtype in WIDE for value in values):
        raise  # noqa: PLE0704 - the error that the caller handles
    found = by_numpy(*(value.cpu().numpy() for value in values))
    return torch.from_numpy(np.asarray(found)).to(values[0].device)
