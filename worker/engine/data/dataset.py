"""Dataset: the examples that the loss is measured on."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Dataset:
    """Model inputs and targets of one length.

    inputs: model input name -> [N, ...]; target: [N, ...].
    """

    inputs: dict[str, Tensor]
    target: Tensor

    def __len__(self) -> int:
        return len(self.target)

    def batches(self, size: int) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        """Yield (inputs, target) in file order, `size` examples at a time."""
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            yield {name: value[part] for name, value in self.inputs.items()}, self.target[part]

    def to(self, device: torch.device | str) -> "Dataset":
        """Return the data on `device`."""
        return replace(self, inputs={name: v.to(device) for name, v in self.inputs.items()}, target=self.target.to(device))

    def cast(self, dtype: torch.dtype) -> "Dataset":
        """Return the data with float32 arrays as `dtype`."""

        def convert(value: Tensor) -> Tensor:
            return value.to(dtype) if value.dtype == torch.float32 else value

        return replace(self, inputs={name: convert(v) for name, v in self.inputs.items()}, target=convert(self.target))
