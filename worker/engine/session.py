"""Session: one program on its data, ready to be measured; Evaluator: the same, for one scope."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from schemas.errors import FaultlineError, MemoryLimit
from worker.engine.corruption import Corruption
from worker.engine.data.dataset import Dataset
from worker.engine.memory import Shrinking, describe_shortage
from worker.engine.models.clean import CleanProgram, measure_bytes
from worker.engine.models.program import Program
from worker.engine.models.split import Boundary, SplitProgram
from worker.engine.objective import Objective
from worker.engine.scopes import Layout
from worker.engine.shortage import is_out_of_memory
from worker.engine.tally import Outcome, Tally, find_outcomes

SHARED_BYTES = 512 * 2**20
"""Clean activations kept for all scopes, over the batches from the first on that fit."""
BOUNDARY_BYTES = 256 * 2**20
"""Clean activations kept for one scope, over the further batches; above it they are computed again per round."""
CORRUPTED_BYTES = 128 * 2**20
"""Corrupted copies of a scope's weights that are held at once, so that they share one clean pass. A copy that is larger alone is
made tensor by tensor, anew for each micro-batch, where no gradient is wanted and the interpreter runs it."""
SESSION_EXAMPLES = 64
SESSION_SHARE = 0.25
"""Examples, and the share of all, that batches of one size must hold for ONNX Runtime to measure them: its sessions take time."""
BARE_EXAMPLES = 512
"""As many for a session without constants: it serves one scope, and has nothing to pack. Below that ONNX Runtime is asked again
where something is not finite (`bare`)."""

Batch = tuple[dict[str, Tensor], Tensor]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Session:
    """A program, its data and its objective on one device.

    micro_batch: examples per forward pass, as planned. labels_counted: the N of the mean loss.
    """

    program: Program
    dataset: Dataset
    objective: Objective
    micro_batch: int
    shrinking: Shrinking = field(default_factory=Shrinking)
    """How often memory ran out, in this session and in those that were made from it: they share it."""

    @property
    def batch_size(self) -> int:
        """Examples per forward pass, now."""
        return max(1, self.micro_batch >> self.shrinking.halvings)

    @cached_property
    def labels_counted(self) -> int:
        """How many labels the mean loss is over."""
        return sum(int(self.objective.find_counted(labels).sum()) for labels in self.dataset.walk_labels())

    @cached_property
    def clean(self) -> CleanProgram:
        """The program on its clean weights, with what all scopes share."""
        clean = CleanProgram(self.program, 0 if self.shrinking.halvings else SHARED_BYTES)
        self.shrinking.holders.add(clean)
        return clean

    def pays_sessions(self, target: Tensor, fewest: int = SESSION_EXAMPLES) -> bool:
        """Tell whether batches like this one are enough to build sessions for: by their size alone, whatever else is asked."""
        examples, size = len(self.dataset), len(target)
        served = examples - examples % self.batch_size if size == self.batch_size else size
        return served >= max(fewest, SESSION_SHARE * examples)

    def to(self, device: str) -> "Session":
        """Return the session with program and data on `device`."""
        return replace(
            self, program=self.program.to(device), dataset=self.dataset.to(device), objective=self.objective.to(device)
        )

    def cast(self, dtype: torch.dtype) -> "Session":
        """Return the session in another floating dtype, for checks in float64."""
        return replace(
            self, program=self.program.cast(dtype), dataset=self.dataset.cast(dtype), objective=self.objective.cast(dtype)
        )

    def batches(self) -> Iterator[Batch]:
        """Yield the micro-batches in file order."""
        return self.dataset.batches(self.batch_size)

    def run(self, compute: Callable[[], Result]) -> Result:
        """Return what `compute` gives; where memory runs out it starts anew, with nothing kept and half the micro-batch.

        Raises:
            MemoryLimit: it ran out although one example was computed at a time.
        """
        while True:
            try:
                return compute()
            except (RuntimeError, MemoryError, FaultlineError) as error:
                shortage = self._judge(error)
            # Out here the exception is gone, and with it what the pass had allocated.
            self.shrinking.halve(self.micro_batch, shortage)

    def _judge(self, error: Exception) -> MemoryLimit:
        if isinstance(error, MemoryLimit) or not is_out_of_memory(error):
            raise error
        return describe_shortage(error, str(next(iter(self.program.weights.values())).device))


class Evaluator:
    """Measures corruptions of the tensors in `names`: the clean part of the network runs once for many corruptions."""

    def __init__(self, session: Session, names: Sequence[str]) -> None:
        self.session = session
        self.layout = Layout(session.program.weights, names, session.clean.channel_axes)
        self._split = SplitProgram(session.clean, frozenset(names))
        self._labels = session.labels_counted
        self._kept: dict[int, Boundary] = {}
        self._room = 0 if session.shrinking.halvings else BOUNDARY_BYTES
        session.shrinking.holders.add(self)

    def shed(self) -> None:
        """Keep no clean activations: memory ran out."""
        self._kept, self._room = {}, 0

    def measure(
        self, corruptions: Sequence[Corruption], objective: Objective | None = None, bare: int = BARE_EXAMPLES
    ) -> list[Outcome]:
        """Apply each corruption [k] and return what it does on all of the data, by this objective. One forward pass each."""
        judge, layout, program = objective or self.session.objective, self.layout, self.session.program
        whole = layout.size_bytes <= CORRUPTED_BYTES or bool(program.nodes) or not self.session.clean.can_split
        corrupted = [layout.apply(corruption) if whole else layout.apply_on_demand(corruption) for corruption in corruptions]

        def measure() -> list[Outcome]:
            tallies = [Tally(judge) for _ in corrupted]
            for batch, boundary in self._batches():
                pays = self.session.pays_sessions(batch[1], SESSION_EXAMPLES if boundary.has_constants else bare)
                run = self._split.measure_corrupted if pays else self._split.run_corrupted
                # What is shared was made outside: tensors of this mode may take no part in a gradient.
                with torch.inference_mode():
                    for parameters, tally in zip(corrupted, tallies, strict=True):
                        tally.add(self.session.objective.select_output(run(boundary, parameters)), batch[1])
            return find_outcomes(tallies)

        outcomes = self.session.run(measure)
        if program.nodes and bare > SESSION_EXAMPLES:
            pairs = zip(outcomes, corruptions, strict=True)
            outcomes = [self.measure([a], judge, SESSION_EXAMPLES)[0] if found.non_finite else found for found, a in pairs]
        return outcomes

    def measure_with_gradient(self, corruptions: Sequence[Corruption], of: str = "loss") -> list[tuple[Outcome, Tensor]]:
        """Return the outcome and the gradient [k] of the mean loss at each w + a. One forward and one backward pass each.

        of: "loss", or "margin" for the gradient of its surrogate for the accuracy (objective.compute_margin_losses).
        """
        corrupted = [self.layout.apply(corruption) for corruption in corruptions]
        for leaves in corrupted:
            for leaf in leaves.values():
                leaf.requires_grad_()
        outcomes = self.differentiate(corrupted, of)
        if self.session.program.nodes:
            # The runtime of an ONNX file judges what is not finite: it may clip or leave out what the interpreter does not.
            pairs = zip(outcomes, corruptions, strict=True)
            outcomes = [self.measure([corruption])[0] if outcome.non_finite else outcome for outcome, corruption in pairs]
        return [(outcome, self.layout.gather(leaves)) for outcome, leaves in zip(outcomes, corrupted, strict=True)]

    def differentiate(self, parameters: Sequence[dict[str, Tensor]], of: str = "loss") -> list[Outcome]:
        """Return the outcome of each set of parameters, and leave the gradient of the mean loss in what requires one."""
        objective = self.session.objective
        compute = objective.compute_losses if of == "loss" else objective.compute_margin_losses

        def differentiate() -> list[Outcome]:
            tallies = [Tally(objective) for _ in parameters]
            for leaf in (leaf for leaves in parameters for leaf in leaves.values()):
                leaf.grad = None
            for batch, boundary in self._batches():
                for leaves, tally in zip(parameters, tallies, strict=True):
                    output = objective.select_output(self._split.run_corrupted(boundary, leaves))
                    tally.add(output, batch[1])
                    loss = compute(output, batch[1]).sum() / self._labels if output.requires_grad else output
                    if loss.requires_grad:  # a loss from a file may have no path to the output
                        loss.backward()
            return find_outcomes(tallies)

        return self.session.run(differentiate)

    def _batches(self) -> Iterator[tuple[Batch, Boundary]]:
        for index, batch in enumerate(self.session.batches()):
            yield batch, self._find_boundary(index, batch[0])

    def _find_boundary(self, index: int, inputs: Mapping[str, Tensor]) -> Boundary:
        if index in self._kept:
            return self._kept[index]
        boundary = self._split.run_clean(index, inputs)
        # A batch that was read from a file lives as long as what is kept of it.
        size = boundary.size_bytes + (0 if self.session.dataset.is_held else measure_bytes(inputs.values()))
        if size <= self._room:
            self._kept[index] = boundary
            self._room -= size
        return boundary
