"""Session: one program on its data, ready to be measured; Evaluator: the same, for one scope."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from worker.engine.data.dataset import Dataset
from worker.engine.models.program import Program
from worker.engine.models.split import Boundary, SplitProgram
from worker.engine.objective import Objective
from worker.engine.scopes import Layout
from worker.engine.tally import Outcome, Tally

BOUNDARY_BYTES = 256 * 2**20
"""Clean activations kept over the whole data set up to this size; above it they are computed again per round."""

Batch = tuple[dict[str, Tensor], Tensor]


@dataclass(frozen=True)
class Session:
    """A program, its data and its objective on one device.

    micro_batch: examples per forward pass. labels_counted: the N of the mean loss.
    """

    program: Program
    dataset: Dataset
    objective: Objective
    micro_batch: int

    @property
    def labels_counted(self) -> int:
        """How many labels the mean loss is over."""
        return int(self.objective.find_counted(self.dataset.target).sum())

    def to(self, device: str) -> "Session":
        """Return the session with program and data on `device`."""
        return replace(self, program=self.program.to(device), dataset=self.dataset.to(device))

    def cast(self, dtype: torch.dtype) -> "Session":
        """Return the session in another floating dtype, for checks in float64."""
        return replace(self, program=self.program.cast(dtype), dataset=self.dataset.cast(dtype))

    def batches(self) -> Iterator[Batch]:
        """Yield the micro-batches in file order."""
        return self.dataset.batches(self.micro_batch)


class Evaluator:
    """Measures corruptions of the tensors in `names`: the clean part of the network runs once for many corruptions."""

    def __init__(self, session: Session, names: Sequence[str]) -> None:
        self.session = session
        self.layout = Layout(session.program.weights, names)
        self._split = SplitProgram(session.program, frozenset(names))
        self._labels = session.labels_counted
        self._kept: list[Boundary] = []
        self._room = BOUNDARY_BYTES

    def measure(self, corruptions: Sequence[Tensor]) -> list[Outcome]:
        """Apply each corruption [k] and return what it does on all of the data. One forward pass each."""
        corrupted = [self.layout.apply(corruption) for corruption in corruptions]
        tallies = [Tally(self.session.objective) for _ in corrupted]
        with torch.no_grad():
            for batch, boundary in self._batches():
                for parameters, tally in zip(corrupted, tallies, strict=True):
                    tally.add(self._run(boundary, parameters), batch[1])
        return [tally.outcome() for tally in tallies]

    def measure_with_gradient(self, corruptions: Sequence[Tensor]) -> list[tuple[Outcome, Tensor]]:
        """Return outcome and gradient [k] of the mean loss at each w + a. One forward and one backward pass each."""
        corrupted = [self._make_leaves(corruption) for corruption in corruptions]
        tallies = [Tally(self.session.objective) for _ in corrupted]
        for batch, boundary in self._batches():
            for leaves, tally in zip(corrupted, tallies, strict=True):
                output = self._run(boundary, leaves)
                tally.add(output, batch[1])
                if output.requires_grad:
                    (self.session.objective.compute_losses(output, batch[1]).sum() / self._labels).backward()
        return [(tally.outcome(), self._collect_gradient(leaves)) for tally, leaves in zip(tallies, corrupted, strict=True)]

    def _make_leaves(self, corruption: Tensor) -> dict[str, Tensor]:
        return {name: tensor.requires_grad_() for name, tensor in self.layout.apply(corruption).items()}

    def _collect_gradient(self, leaves: Mapping[str, Tensor]) -> Tensor:
        grads = {name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for name, leaf in leaves.items()}
        return self.layout.flatten(grads)

    def _run(self, boundary: Boundary, parameters: Mapping[str, Tensor]) -> Tensor:
        return self.session.objective.select_output(self._split.run_corrupted(boundary, parameters))

    def _batches(self) -> Iterator[tuple[Batch, Boundary]]:
        for index, batch in enumerate(self.session.batches()):
            yield batch, self._find_boundary(index, batch[0])

    def _find_boundary(self, index: int, inputs: Mapping[str, Tensor]) -> Boundary:
        if index < len(self._kept):
            return self._kept[index]
        boundary = self._split.run_clean(inputs)
        # Only a gap-free start of the data is kept, so that an index finds its batch.
        if index == len(self._kept) and boundary.size_bytes <= self._room:
            self._kept.append(boundary)
            self._room -= boundary.size_bytes
        return boundary
