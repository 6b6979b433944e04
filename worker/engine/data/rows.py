"""Rows: the examples of one array, in memory or in a file from which they are read batch by batch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from schemas.errors import DataUnreadable, Fault

WIDE_UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)
"""Read as int64: models and losses take no other unsigned integers than bytes."""


@dataclass(frozen=True)
class Finish:
    """What is done to stored values before a model sees them: (value * scale - mean) / std in float32, then the dtype.

    shape: of one row, where it is another than the stored one. dtype: None keeps the stored one.
    """

    dtype: torch.dtype | None = None
    shape: tuple[int, ...] | None = None
    scale: float | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    channels_last: bool = False

    def apply(self, values: Tensor) -> Tensor:
        """Return the finished rows [n, ...]; mean and std run along the channels, a row's first axis unless they come last.

        >>> Finish(scale=0.5, mean=(1.0,), std=(2.0,)).apply(torch.tensor([[[6], [10]]]))
        tensor([[[1.],
                 [2.]]])
        """
        if values.dtype in WIDE_UNSIGNED:
            values = values.to(torch.int64)
        if self.shape is not None:
            values = values.reshape(len(values), *self.shape)
        if self.scale is not None:
            values = values.to(torch.float32) * self.scale
        if self.mean or self.std:
            values = (values.to(torch.float32) - self._spread(self.mean or (0.0,), values)) / self._spread(
                self.std or (1.0,), values
            )
        return values if self.dtype is None else values.to(self.dtype)

    def find_dtype(self, stored: torch.dtype) -> torch.dtype:
        """Return the dtype of finished rows."""
        return self.apply(
            torch.zeros(0, 1, dtype=stored) if self.shape is None else torch.zeros(0, *self.shape, dtype=stored)
        ).dtype

    def _spread(self, numbers: Sequence[float], values: Tensor) -> Tensor:
        """Return one number per channel, shaped to meet the rows."""
        spread = torch.tensor(numbers, dtype=torch.float32)
        return spread if self.channels_last else spread.view(-1, *[1] * (values.ndim - 2))


@dataclass(frozen=True)
class StoredRows:
    """An array [N, ...] that stays in its file, uncompressed and row after row; indexing reads.

    offset: bytes before the first row. row: the stored shape of one row. swapped: stored in the other byte order.
    """

    path: Path
    offset: int
    count: int
    row: tuple[int, ...]
    stored: torch.dtype
    swapped: bool = False
    finish: Finish = Finish()
    device: torch.device | str = "cpu"

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, part: slice) -> Tensor:
        """Return some rows in a row, read anew."""
        start, stop, step = part.indices(self.count)
        if step != 1:
            message = "rows are read one after another"
            raise ValueError(message)
        return self._finish(self._read(start, max(start, stop)))

    def take(self, rows: Sequence[int]) -> Tensor:
        """Return the rows of the given numbers, in their order."""
        return self._finish(torch.cat([self._read(row, row + 1) for row in rows]))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of all finished rows together."""
        return (self.count, *(self.row if self.finish.shape is None else self.finish.shape))

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of finished rows."""
        return self.finish.find_dtype(self.stored)

    @property
    def nbytes(self) -> int:
        """The bytes of all finished rows."""
        return self.count * self.row_bytes // self.stored.itemsize * self.dtype.itemsize

    @property
    def row_bytes(self) -> int:
        """The stored bytes of one row."""
        return torch.Size(self.row).numel() * self.stored.itemsize

    def to(self, device: torch.device | str) -> "StoredRows":
        """Return the array whose rows are read onto `device`."""
        return replace(self, device=device)

    def cast(self, dtype: torch.dtype) -> "StoredRows":
        """Return the array with float32 rows read as `dtype`."""
        return replace(self, finish=replace(self.finish, dtype=dtype)) if self.dtype == torch.float32 else self

    def with_finish(self, finish: Finish) -> "StoredRows":
        """Return the array with something else done to its values."""
        return replace(self, finish=finish)

    def _finish(self, values: Tensor) -> Tensor:
        return self.finish.apply(values).to(self.device)

    def _read(self, start: int, stop: int) -> Tensor:
        values = torch.empty(stop - start, *self.row, dtype=self.stored)
        if values.numel():
            content = values.view(-1).view(torch.uint8).numpy()
            with self.path.open("rb", buffering=0) as file:
                file.seek(self.offset + start * self.row_bytes)
                if file.readinto(content.data) != content.nbytes:
                    raise DataUnreadable(
                        Fault(
                            "the data file ends too early",
                            "/data",
                            f"rows up to {stop}",
                            "the end of the file",
                            "upload it again",
                        )
                    )
            if self.swapped:
                content.reshape(-1, self.stored.itemsize)[:] = content.reshape(-1, self.stored.itemsize)[:, ::-1].copy()
            if self.stored == torch.bool:
                content[:] = content != 0  # any other byte in a bool is undefined
        return values


Rows = Tensor | StoredRows


def read_all(rows: Rows) -> Tensor:
    """Return all rows in memory."""
    return rows if isinstance(rows, Tensor) else rows[:]


def take_rows(rows: Rows, chosen: Sequence[int]) -> Tensor:
    """Return the rows of the given numbers, in their order."""
    return rows[list(chosen)] if isinstance(rows, Tensor) else rows.take(chosen)


def cast_rows(rows: Rows, dtype: torch.dtype) -> Rows:
    """Return the rows with float32 values as `dtype`."""
    if isinstance(rows, StoredRows):
        return rows.cast(dtype)
    return rows.to(dtype) if rows.dtype == torch.float32 else rows
