"""What one set of weights does to each example; method section 8."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worker.engine.models.program import Program
from worker.engine.objective import Objective
from worker.engine.statistics.sequence import Values
from worker.engine.tally import TOP

Batch = tuple[dict[str, Tensor], Tensor]


@dataclass(frozen=True)
class ExampleSums:
    """Per example [n]: the sum of its losses, how many of its labels count, and how many of these each top-k has right.

    An example with a non-finite output or loss has a loss of NaN and nothing right.
    """

    losses: Values
    labels: Values
    right: dict[int, Values]

    def __len__(self) -> int:
        return len(self.losses)

    @property
    def non_finite(self) -> int:
        """How many examples have a non-finite output or loss."""
        return int(np.isnan(self.losses).sum())

    def select(self, start: int, stop: int) -> "ExampleSums":
        """Return the examples start..stop."""
        right = {top: values[start:stop] for top, values in self.right.items()}
        return ExampleSums(self.losses[start:stop], self.labels[start:stop], right)


def measure_batches(
    program: Program, objective: Objective, parameters: Mapping[str, Tensor], batches: Iterable[Batch]
) -> ExampleSums:
    """Return what the weights in `parameters`, the others clean, do to each example of the batches. One forward pass."""
    parts = []
    with torch.no_grad():
        for inputs, target in batches:
            parts.append(sum_labels(objective, objective.select_output(program.forward(parameters, inputs)), target))
    return join_examples(parts)


def join_examples(parts: Sequence[ExampleSums]) -> ExampleSums:
    """Return the examples of all parts, in order."""
    return ExampleSums(
        losses=np.concatenate([part.losses for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        right={top: np.concatenate([part.right[top] for part in parts]) for top in parts[0].right},
    )


def sum_labels(objective: Objective, output: Tensor, target: Tensor) -> ExampleSums:
    """Return the sums over the labels of each example, for outputs [n, ...] and targets [n, ...]."""
    count = len(target)
    losses = objective.compute_losses(output, target).double().reshape(count, -1).sum(1)
    finite = torch.isfinite(losses) & torch.isfinite(output.reshape(count, -1).sum(1, dtype=torch.float64))
    counted = objective.find_counted(target).reshape(count, -1)
    right = {}
    for top in sorted({TOP[name] for name in objective.metrics if name in TOP}):
        found = objective.find_right(output, target, top).reshape(count, -1) & counted & finite.unsqueeze(1)
        right[top] = _to_values(found.sum(1))
    return ExampleSums(_to_values(losses.masked_fill(~finite, torch.nan)), _to_values(counted.sum(1)), right)


def _to_values(sums: Tensor) -> Values:
    return np.asarray(sums.double().numpy(force=True))
