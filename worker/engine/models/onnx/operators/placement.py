"""Where values live: shape arithmetic stays on the CPU, everything else is on the model's device."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worker.engine.models.onnx.operators.unsigned import compute_unsigned


def align(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Return the tensors on one device: small integers come from the CPU to where the others are."""
    device = next((tensor.device for tensor in tensors if not tensor.is_cpu), None)
    return tensors if device is None else tuple(tensor.to(device) for tensor in tensors)


def aligned(
    function: Callable[[Tensor, Tensor], Tensor], by_numpy: Callable[..., Any] | None = None
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the binary operator for operands that may lie on two devices, or may be wide unsigned integers."""

    @functools.wraps(function)
    def apply(a: Tensor, b: Tensor) -> Tensor:
        if a.is_cpu is not b.is_cpu:
            a, b = align(a, b)
        try:
            return function(a, b)
        except NotImplementedError:
            return compute_unsigned(by_numpy, a, b)

    return apply


def read_ints(values: Tensor) -> list[int]:
    """Return the numbers of a shape, axes or index tensor of any rank as a flat list."""
    numbers: Any = values.tolist()
    return numbers if isinstance(numbers, list) else [numbers]


def make_shape(sizes: Any) -> Tensor:
    """Return sizes as the integer tensor that ONNX calls a shape, on the CPU."""
    return torch.from_numpy(np.array(sizes, dtype=np.int64))  # a third of torch.tensor's time
