"""Rounding to integers, with the gradient of the clamp alone: straight through."""

import torch
from torch import Tensor

Limits = tuple[int, int]


def round_codes(steps: Tensor, offset: Tensor | int | None, limits: Limits) -> Tensor:
    """Return numbers in steps as codes: halves go to the even neighbour, what lies outside the type to its ends.

    The gradient is that of the clamp alone.
    """
    code = round_plainly(steps, offset, limits)
    if not torch.is_grad_enabled():
        return code
    smooth = (steps if offset is None else steps + offset).clamp(*limits)
    # Exactly zero beside the code, so the code is not rounded again.
    return code + (smooth - smooth.detach())


def round_plainly(steps: Tensor, offset: Tensor | int | None, limits: Limits) -> Tensor:
    """Return the codes of numbers in steps, without a gradient."""
    rounded = steps.detach().round()
    return (rounded if offset is None else rounded + offset).clamp(*limits)
