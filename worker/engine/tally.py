"""Tally: losses and metrics over batches, added in float64 and in order, without a device sync per batch."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.engine.objective import HIGHER_IS_BETTER, Objective

LABELS_PER_FLUSH = 4096
TOP = {"accuracy": 1, "error_rate": 1, "top_5": 5, "top_5_error_rate": 5}


@dataclass(frozen=True)
class Outcome:
    """What one set of weights does on all of the data.

    loss: mean per counted label; None when any example's output or loss is non-finite, and then
    `non_finite` says how many examples.
    """

    loss: float | None
    metrics: dict[str, float | None]
    non_finite: int


def compute_drop(metric: str, clean: float, value: float | None) -> float | None:
    """Return the deterioration of a metric: positive when worse, None when the value is.

    >>> compute_drop("accuracy", 0.75, 0.5), compute_drop("perplexity", 2.0, 3.0)
    (0.25, 1.0)
    """
    if value is None:
        return None
    return clean - value if metric in HIGHER_IS_BETTER else value - clean


class Tally:
    """Collects outputs and targets; `outcome()` gives the loss and metrics over all of them.

    Outputs are buffered until a few thousand labels are there, so that one call of the loss serves
    many batches. A non-finite example counts as wrong.
    """

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self._buffer: list[tuple[Tensor, Tensor]] = []
        self._labels = 0
        self._sums: Tensor | None = None
        self._tops = sorted({TOP[name] for name in objective.metrics if name in TOP})

    def add(self, output: Tensor, target: Tensor) -> None:
        """Take one batch of outputs."""
        self._buffer.append((output.detach(), target))
        self._labels += target.numel()
        if self._labels >= LABELS_PER_FLUSH:
            self._flush()

    def outcome(self) -> Outcome:
        """Return loss and metrics over everything added; waits for the device."""
        if self._buffer:
            self._flush()
        if self._sums is None:
            message = "nothing was added to the tally"
            raise RuntimeError(message)
        total, count, non_finite, *correct = self._sums.tolist()
        loss = total / count if count and not non_finite and math.isfinite(total) else None
        shares = {top: value / count if count else None for top, value in zip(self._tops, correct, strict=True)}
        metrics = {name: _derive_metric(name, loss, shares) for name in self._objective.metrics}
        return Outcome(loss=loss, metrics=metrics, non_finite=int(non_finite))

    def _flush(self) -> None:
        output = torch.cat([output for output, _ in self._buffer])
        target = torch.cat([target for _, target in self._buffer])
        self._buffer, self._labels = [], 0
        sums = torch.stack(self._sum_labels(output, target))
        self._sums = sums if self._sums is None else self._sums + sums

    def _sum_labels(self, output: Tensor, target: Tensor) -> list[Tensor]:
        losses = self._objective.compute_losses(output, target)
        counted = self._objective.find_counted(target)
        finite = _find_finite(output) & torch.isfinite(losses.view(len(losses), -1)).all(1)
        judged = counted & finite.view(-1, *[1] * (losses.ndim - 1))
        sums = [losses.sum(dtype=torch.float64), counted.sum().double(), (~finite).sum().double()]
        return sums + [(self._objective.find_right(output, target, top) & judged).sum().double() for top in self._tops]


def _find_finite(output: Tensor) -> Tensor:
    """Return which examples [N] have no NaN and no infinity in their output."""
    rows = output.flatten(1)
    # A float64 sum of narrower numbers cannot overflow, and is far cheaper than a test of every number.
    return torch.isfinite(rows).all(1) if rows.dtype == torch.float64 else torch.isfinite(rows.sum(1, dtype=torch.float64))


def _derive_metric(name: str, loss: float | None, shares: dict[int, float | None]) -> float | None:
    if name in TOP:
        share = shares[TOP[name]]
        return share if name in HIGHER_IS_BETTER or share is None else 1.0 - share
    if loss is None or name == "mse":
        return loss
    return math.exp(loss) if loss < 700 else None
