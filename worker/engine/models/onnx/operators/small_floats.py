"""Floats of eight bits: torch converts to and from them, ONNX says what becomes of what they cannot hold."""

import torch
from torch import Tensor

SMALL = frozenset({torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz})
"""Not the bare exponents of float8_e8m0fnu, which ONNX rounds in ways of its own."""
ROUNDED_DOWN = 464.0
"""Half a step above float8_e4m3fn's largest number: the last value that rounds to it. Torch saturates there, ONNX asks."""


def convert_to_small(x: Tensor, dtype: torch.dtype, *, saturated: bool) -> Tensor:
    """Return x in an eight-bit float type, halves to even.

    Args:
        x: any real tensor.
        dtype: one of SMALL.
        saturated: what lies outside becomes the largest number; else infinity, or NaN in types without infinity.

    Returns:
        The converted tensor.

    >>> convert_to_small(torch.tensor([1.0, 1000.0]), torch.float8_e4m3fn, saturated=True).float().tolist()
    [1.0, 448.0]
    >>> convert_to_small(torch.tensor([1.0, 1000.0]), torch.float8_e4m3fn, saturated=False).float().tolist()
    [1.0, nan]
    """
    if saturated:
        largest = torch.finfo(dtype).max
        return x.clamp(-largest, largest).to(dtype)
    if dtype == torch.float8_e4m3fn:
        x = x.masked_fill(x.abs() > ROUNDED_DOWN, torch.nan)
    return x.to(dtype)
