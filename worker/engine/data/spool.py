"""Spool: where rows go that a format does not hold one after another: memory while they are few, then a scratch file."""

import errno
import itertools
import resource
import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from schemas.errors import Fault, ScratchLimit
from worker.engine.data.regions import Region
from worker.engine.data.rows import Finish, Rows, StoredRows
from worker.engine.shortage import find_free_bytes

HELD_BYTES = 256 * 2**20
"""Arrays of a data file that are kept in memory, together; larger ones stay in files."""
HELD_SHARE = 4
"""They take at most this part of the memory that is free."""
CHUNK_BYTES = 2**20

_numbers = itertools.count(1)


class Spool:
    """The room that one data file's rows have, in memory and in a scratch folder."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._room = min(HELD_BYTES, find_free_bytes() // HELD_SHARE)
        self._written = 0

    def settle(self, rows: StoredRows) -> Rows:
        """Return rows that lie in a file, in memory where there is room."""
        return rows[:] if self.hold(rows.nbytes) else rows

    def hold(self, size_bytes: int) -> bool:
        """Take room in memory; False when there is not enough."""
        if size_bytes > self._room:
            return False
        self._room -= size_bytes
        return True

    def give_back(self, size_bytes: int) -> None:
        """Return room that was taken."""
        self._room += size_bytes

    def write_file(self, chunks: Iterable[bytes], name: str) -> Region:
        """Return a file of the scratch folder with this content, such as a compressed member of an archive."""
        path = self.name_file()
        with path.open("wb", buffering=0) as file:
            size = sum(self.write(file, chunk) for chunk in chunks)
        return Region(path, 0, size, name)

    def name_file(self) -> Path:
        """Return the path of a new scratch file."""
        folder = self._folder or Path(_make_folder().name)
        return folder / f"rows-{next(_numbers)}.bin"

    def write(self, file: Any, content: Any) -> int:
        """Write to a scratch file and return the bytes; ScratchLimit above half of what the process may write, or of the disk."""
        size = memoryview(content).nbytes
        self._written += size
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        allowed = limit // 2 if limit != resource.RLIM_INFINITY else None
        if allowed is not None and self._written > allowed:
            _refuse_room(f"at most {allowed} bytes")
        try:
            file.write(content)
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}:
                _refuse_room("room on the worker's disk")
            raise
        return size


def _refuse_room(expected: str) -> NoReturn:
    advice = (
        "save the data uncompressed as .npz, .npy or safetensors, which are read where they are; or ask the operator to raise "
        "FAULTLINE_JOB_SCRATCH_BYTES"
    )
    raise ScratchLimit(Fault("the decoded data need more scratch space than there is", "/data", expected, "more", advice))


@cache
def _make_folder() -> "tempfile.TemporaryDirectory[str]":
    """Return a folder that is removed when this process ends, for callers that have none of their own."""
    return tempfile.TemporaryDirectory(prefix="faultline-data-")


class Writer:
    """Takes the rows of one array block by block."""

    def __init__(self, spool: Spool, name: str) -> None:
        self.name = name
        self.count = 0
        self._spool = spool
        self._blocks: list[NDArray[Any]] = []
        self._held = 0
        self._path: Path | None = None
        self._row: tuple[int, ...] = ()
        self._dtype: np.dtype[Any] = np.dtype(np.float32)

    def add(self, block: NDArray[Any]) -> None:
        """Append rows [n, ...]; all blocks have one shape of a row and one dtype."""
        if not self.count:
            self._row, self._dtype = block.shape[1:], block.dtype
        self.count += len(block)
        block = np.ascontiguousarray(block)
        if self._path is None and self._spool.hold(block.nbytes):
            self._held += block.nbytes
            self._blocks.append(block)
            return
        if self._path is None:
            self._path = self._spool.name_file()
            self._append(self._blocks)
            self._spool.give_back(self._held)
            self._blocks, self._held = [], 0
        self._append([block])

    def fits(self, block: NDArray[Any]) -> bool:
        """Tell whether a block has rows of the shape that was added before."""
        return not self.count or block.shape[1:] == self._row

    @property
    def row(self) -> tuple[int, ...]:
        """The shape of the rows that were added."""
        return self._row

    def finish(self, finish: Finish) -> Rows:
        """Return everything that was added."""
        if self._path is not None:
            stored = torch.from_numpy(np.empty(0, self._dtype)).dtype
            return StoredRows(self._path, 0, self.count, self._row, stored, finish=finish)
        return finish.apply(_join(self._blocks))

    def _append(self, blocks: Iterable[NDArray[Any]]) -> None:
        if self._path is not None:
            with self._path.open("ab", buffering=0) as file:
                for block in blocks:
                    self._spool.write(file, block.data)


def _join(blocks: list[NDArray[Any]]) -> Tensor:
    return torch.from_numpy(np.concatenate(blocks)) if blocks else torch.zeros(0)
