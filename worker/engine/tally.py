"""Tally: losses and metrics over batches, added in float64 and in order, without a device sync per batch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.engine.objective import HIGHER_IS_BETTER, Objective

LABELS_PER_FLUSH = 4096
TOP = {"accuracy": 1, "error_rate": 1} | {f"top_{k}{rest}": k for k in (3, 5, 10) for rest in ("", "_error_rate")}
F1 = "f1"


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
        self.waiting = 0
        """Labels in the buffer."""
        self._sums: Tensor | None = None
        self._tops = sorted({TOP[name] for name in objective.metrics if name in TOP})

    def add(self, output: Tensor, target: Tensor) -> None:
        """Take one batch of outputs."""
        kept = output.detach()
        self._buffer.append((kept.expand(len(target)) if kept.ndim == 0 else kept, target))
        self.waiting += target.numel()
        if self.waiting >= LABELS_PER_FLUSH:
            self._flush()

    def outcome(self) -> Outcome:
        """Return loss and metrics over everything added; waits for the device."""
        if self._buffer:
            self._flush()
        if self._sums is None:
            message = "nothing was added to the tally"
            raise RuntimeError(message)
        total, count, non_finite, *rest = self._sums.tolist()
        correct, classes = rest[: len(self._tops)], rest[len(self._tops) :]
        loss = total / count if count and not non_finite and math.isfinite(total) else None
        shares = {top: value / count if count else None for top, value in zip(self._tops, correct, strict=True)}
        metrics = {name: _derive_metric(name, loss, shares) for name in self._objective.metrics}
        if classes:
            metrics[F1] = compute_f1(classes, absent_count=not self._objective.has_classes)
        return Outcome(loss=loss, metrics=metrics, non_finite=int(non_finite))

    def take_buffer(self) -> tuple[Tensor, Tensor]:
        """Return the outputs and targets that are not summed yet, and forget them."""
        output = torch.cat([output for output, _ in self._buffer])
        target = torch.cat([target for _, target in self._buffer])
        self._buffer, self.waiting = [], 0
        return output, target

    def _flush(self) -> None:
        output, target = self.take_buffer()
        [sums] = self.sum_labels(output[None], target)
        self.add_sums(sums)

    def add_sums(self, sums: Tensor) -> None:
        """Take what `sum_labels` gave for some outputs."""
        self._sums = sums if self._sums is None else self._sums + sums

    def sum_labels(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return, for each of several outputs [V, N, ...] of the same examples, the sums that an outcome is made of [V, ...]."""
        variants = len(outputs)
        output, target = outputs.flatten(0, 1), target.repeat(variants, *[1] * (target.ndim - 1))
        losses = self._compute_losses(outputs, target)
        counted = self._objective.find_counted(target)
        finite = _find_finite(output) & torch.isfinite(losses.view(len(losses), -1)).all(1)
        judged = counted & finite.view(-1, *[1] * (losses.ndim - 1))
        sums = [losses, counted, ~finite, *(self._objective.find_right(output, target, top) & judged for top in self._tops)]
        found = torch.stack([value.view(variants, -1).sum(1, dtype=torch.float64) for value in sums], 1)
        if F1 not in self._objective.metrics:
            return found
        return torch.cat([found, self._count_classes(output, target, judged, counted, variants)], 1)

    def _compute_losses(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return the losses of all variants, one after another; a loss that is one number for all must not mix them."""
        if self._objective.program is None:
            return self._objective.compute_losses(outputs.flatten(0, 1), target)
        examples = len(target) // len(outputs)
        return torch.cat([self._objective.compute_losses(output, target[:examples]) for output in outputs])

    def _count_classes(self, output: Tensor, target: Tensor, judged: Tensor, counted: Tensor, variants: int) -> Tensor:
        """Return, per variant, how often each class was answered rightly, answered, and the label [V, 3 C]."""
        classes = output.shape[-1]
        if not self._objective.has_classes:
            answered, wanted = (output > 0) & judged, target > 0.5
            counts = [answered & wanted, answered, wanted]
            return torch.cat([value.view(variants, -1, classes).sum(1, dtype=torch.float64) for value in counts], 1)
        answers, labels = output.argmax(-1), self._objective.find_labels(target)
        offsets = torch.arange(variants, device=output.device).repeat_interleave(len(output) // variants) * classes
        offsets = offsets.view(-1, *[1] * (labels.ndim - 1))
        chosen = [(labels, judged & (answers == labels)), (answers, judged), (labels, counted)]
        counts = [torch.bincount((values + offsets)[mask], minlength=variants * classes) for values, mask in chosen]
        return torch.cat([count.view(variants, classes).double() for count in counts], 1)


def find_outcomes(tallies: Sequence[Tally]) -> list[Outcome]:
    """Return the outcome of each of some tallies of the same examples: what is left in their buffers is summed together."""
    together = max(1, LABELS_PER_FLUSH // max([1, *(tally.waiting for tally in tallies)]))
    for start in range(0, len(tallies), together):
        chosen = [tally for tally in tallies[start : start + together] if tally.waiting]
        if chosen:
            outputs, targets = zip(*(tally.take_buffer() for tally in chosen), strict=True)
            for tally, sums in zip(chosen, chosen[0].sum_labels(torch.stack(outputs), targets[0]), strict=True):
                tally.add_sums(sums)
    return [tally.outcome() for tally in tallies]


def _find_finite(output: Tensor) -> Tensor:
    """Return which examples [N] have no NaN and no infinity in their output."""
    rows = output.reshape(len(output), -1)
    # A float64 sum of narrower numbers cannot overflow, and is far cheaper than a test of every number.
    return torch.isfinite(rows).all(1) if rows.dtype == torch.float64 else torch.isfinite(rows.sum(1, dtype=torch.float64))


def compute_f1(counts: Sequence[float], *, absent_count: bool) -> float:
    """Return the macro-averaged F1 score: the mean over classes of 2 * right / (answered + labels).

    Args:
        counts: how often each class was answered rightly, then how often it was answered, then how often it was the label.
        absent_count: whether a class that is neither label nor answer counts as 0, or is left out.

    Returns:
        The score, from 0 to 1.

    >>> compute_f1([1, 0, 2, 0, 2, 0], absent_count=False), compute_f1([1, 0, 2, 0, 2, 0], absent_count=True)
    (0.5, 0.25)
    """
    classes = len(counts) // 3
    triples = zip(counts[:classes], counts[classes : 2 * classes], counts[2 * classes :], strict=True)
    scores = [2 * right / max(1.0, answered + wanted) for right, answered, wanted in triples if absent_count or answered + wanted]
    return math.fsum(scores) / len(scores) if scores else 0.0


def _derive_metric(name: str, loss: float | None, shares: dict[int, float | None]) -> float | None:
    if name == F1:
        return None  # from the counts of classes
    if name in TOP:
        share = shares[TOP[name]]
        return share if name in HIGHER_IS_BETTER or share is None else 1.0 - share
    if loss is None or name == "mse":
        return loss
    return math.exp(loss) if loss < 700 else None
