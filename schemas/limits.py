"""Limits: the line that a breaking point looks for, in a request and in a policy."""

from typing import Literal, Self

from pydantic import model_validator

from schemas.base import Input, PositiveFloat

MetricName = Literal[
    "accuracy",
    "error_rate",
    "top_3",
    "top_3_error_rate",
    "top_5",
    "top_5_error_rate",
    "top_10",
    "top_10_error_rate",
    "f1",
    "perplexity",
    "mse",
]
Along = Literal["epsilon", "max_corrupted"]
"""What grows until a limit is crossed: how far the weights move, or how many of them."""


class Limit(Input):
    """A metric's drop, or a loss change."""

    metric: MetricName | None = None
    drop: PositiveFloat | None = None
    loss_change: PositiveFloat | None = None

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        if (self.metric is None) != (self.drop is None) or (self.metric is None) == (self.loss_change is None):
            message = 'give either {"metric": ..., "drop": ...} or {"loss_change": ...}'
            raise ValueError(message)
        return self
