"""Dataset: the examples that the loss is measured on, in memory or in files."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from worker.engine.data.rows import Rows, cast_rows, read_all, take_rows

BLOCK_ROWS = 4096
"""Rows that a walk over one array holds at a time, at most; fewer where they are large."""
BLOCK_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Dataset:
    """Model inputs and labels of one length.

    columns: model input name -> [N, ...]; labels: [N, ...]. Small arrays are tensors, larger ones stay in their files
    (rows.StoredRows), so the engine reads `batches`, `take` and `walk`, never everything at once.
    """

    columns: Mapping[str, Rows]
    labels: Rows

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def inputs(self) -> dict[str, Tensor]:
        """All inputs, in memory."""
        return {name: read_all(rows) for name, rows in self.columns.items()}

    @property
    def target(self) -> Tensor:
        """All labels, in memory."""
        return read_all(self.labels)

    @property
    def is_held(self) -> bool:
        """Whether everything is in memory, so that a batch takes none of its own."""
        return all(isinstance(rows, Tensor) for rows in (*self.columns.values(), self.labels))

    def batches(self, size: int) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        """Yield (inputs, target) in file order, `size` examples at a time."""
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            yield {name: rows[part] for name, rows in self.columns.items()}, self.labels[part]

    def take(self, rows: Sequence[int]) -> "Dataset":
        """Return the examples of the given numbers, in their order and in memory."""
        return Dataset({name: take_rows(column, rows) for name, column in self.columns.items()}, take_rows(self.labels, rows))

    def walk_labels(self) -> Iterator[Tensor]:
        """Yield all labels in order, as many at a time as are cheap to hold."""
        return walk(self.labels)

    def with_labels(self, labels: Rows) -> "Dataset":
        """Return the inputs with other labels."""
        return replace(self, labels=labels)

    def to(self, device: torch.device | str) -> "Dataset":
        """Return the data on `device`; what is in files goes there batch by batch."""
        return Dataset({name: rows.to(device) for name, rows in self.columns.items()}, self.labels.to(device))

    def cast(self, dtype: torch.dtype) -> "Dataset":
        """Return the data with float32 arrays as `dtype`."""
        return Dataset({name: cast_rows(rows, dtype) for name, rows in self.columns.items()}, cast_rows(self.labels, dtype))


def walk(rows: Rows) -> Iterator[Tensor]:
    """Yield all rows in order, as many at a time as are cheap to hold; tensors in one piece."""
    if isinstance(rows, Tensor):
        yield rows
        return
    size = max(1, min(BLOCK_ROWS, BLOCK_BYTES * len(rows) // max(1, rows.nbytes)))
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
