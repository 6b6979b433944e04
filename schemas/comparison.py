"""Comparison: which figures of a report mean the same for two models."""

from typing import Literal

from schemas.base import Output

Invariance = Literal["logit_scale", "weight_rescaling", "tensor_rescaling"]


class Comparison(Output):
    """Whether two models can be compared by a figure under sets of a scale, on the same data and with the same search."""

    figure: str
    scale: str
    invariant_to: tuple[Invariance, ...]
    between_models: bool
    reason: str
