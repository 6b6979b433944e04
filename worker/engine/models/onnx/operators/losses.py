"""Losses inside a model."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from worker.engine.models.onnx.registry import Family, Node

operator = Family("losses")

NO_CLASS = -(2**31)
"""A label that no class has: nothing is ignored."""


def _read_loss(node: Node) -> dict[str, Any]:
    return {"reduction": node.attributes.get("reduction", "mean"), "ignored": node.attributes.get("ignore_index", NO_CLASS)}


@operator("NegativeLogLikelihoodLoss", since=12, settings=(2,), prepare=_read_loss)
def negative_log_likelihood(x: Tensor, labels: Tensor, weight: Tensor | None = None, *, reduction: str, ignored: int) -> Tensor:
    """Negative log-probability of the labels, weighted per class."""
    return functional.nll_loss(x, labels.long(), weight, ignore_index=ignored, reduction=reduction)


@operator("SoftmaxCrossEntropyLoss", since=12, settings=(2,), prepare=_read_loss, many=True)
def softmax_cross_entropy(
    x: Tensor, labels: Tensor, weight: Tensor | None = None, *, reduction: str, ignored: int
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of logits, and the log-probabilities."""
    log_probabilities = torch.log_softmax(x, 1)
    loss = negative_log_likelihood(log_probabilities, labels, weight, reduction=reduction, ignored=ignored)
    return loss, log_probabilities
