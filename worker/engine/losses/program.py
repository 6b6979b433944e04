"""A loss that a second small model computes, of outputs of the audited model and of the labels."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from worker.engine.models.load import measure_parity
from worker.engine.models.program import InputSpec, Program

Layout = tuple[tuple[torch.Size, torch.dtype], ...]


@dataclass(frozen=True)
class LossFile:
    """The file of such a model, and its format or "auto"."""

    path: Path
    format: str


@dataclass(frozen=True)
class LossProgram:
    """The model that computes the loss, and what its inputs read.

    reads: input -> output of the audited model; labels: the input that reads the labels, if one does. Several outputs travel
    as one tensor [B, k], side by side; layouts: how the rows of such a tensor fall apart, by k.
    """

    program: Program
    file: LossFile
    reads: tuple[tuple[str, str], ...] = ()
    labels: str | None = None
    layouts: dict[int, Layout] = field(default_factory=dict, compare=False, repr=False)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The outputs of the audited model that the loss reads, each once."""
        return tuple(dict.fromkeys(output for _, output in self.reads))

    @property
    def label_spec(self) -> InputSpec | None:
        """What the input that reads the labels takes."""
        return next((spec for spec in self.program.inputs if spec.name == self.labels), None)

    def to(self, device: torch.device | str) -> "LossProgram":
        """Return the loss on `device`."""
        return replace(self, program=self.program.to(device))

    def cast(self, dtype: torch.dtype) -> "LossProgram":
        """Return the loss in another floating dtype."""
        return replace(self, program=self.program.cast(dtype), layouts={})

    def pack(self, outputs: dict[str, Any]) -> Tensor:
        """Return what the loss reads of the model's outputs as one tensor: the only one as it is, several side by side [B, k].

        Raises:
            TypeError: they are no tensors, or have no examples in common.
        """
        values = [outputs[name] for name in self.outputs]
        if not all(isinstance(value, Tensor) for value in values):
            message = f"one of the outputs {list(self.outputs)} is no tensor"
            raise TypeError(message)
        if len(values) == 1:
            only: Tensor = values[0]
            return only
        if len({value.shape[:1] for value in values}) > 1 or not values[0].ndim:
            message = f"the outputs {list(self.outputs)} have no axis of examples in common"
            raise TypeError(message)
        packed = torch.cat([value.reshape(len(value), -1) for value in values], 1)
        self.layouts[packed.shape[1]] = tuple((value.shape[1:], value.dtype) for value in values)
        return packed

    def compute(self, packed: Tensor, target: Tensor) -> Tensor:
        """Return what the program gives: one loss per example [B], or their mean as one number."""
        losses: Tensor = next(iter(self.program.forward({}, self._feed(packed, target)).values()))
        return losses

    def measure_parity(self, packed: Tensor, target: Tensor, threads: int) -> float:
        """Return how far the answer is from that of the file's own runtime; ParityError above what passes."""
        return measure_parity(self.file.path, self.program, self._feed(packed.detach(), target), threads)

    def _feed(self, packed: Tensor, target: Tensor) -> dict[str, Tensor]:
        values = dict(zip(self.outputs, self._unpack(packed), strict=True))
        given = {name: values[output] for name, output in self.reads}
        return given if self.labels is None else {**given, self.labels: target}

    def _unpack(self, packed: Tensor) -> list[Tensor]:
        if len(self.outputs) < 2:
            return [packed]
        layout = self.layouts[packed.shape[1]]
        parts = packed.split([shape.numel() for shape, _ in layout], 1)
        return [part.reshape(len(packed), *shape).to(dtype) for part, (shape, dtype) in zip(parts, layout, strict=True)]
