"""Read `.npy` arrays: the header says where the rows are, and nothing is ever unpickled."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray
from torch import Tensor

from schemas.errors import DataUnreadable, Fault
from worker.engine.data.regions import Region, refuse_data
from worker.engine.data.rows import StoredRows
from worker.engine.data.spool import Spool
from worker.engine.data.tables import BLOCK_ROWS, Values

KINDS = "biuf"
"""Array kinds that a model can take: bool, signed and unsigned integers, floats."""
MAX_HEADER_BYTES = 10_000
READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


class ArrayTable:
    """Named arrays that are stored row after row, each found when it is first asked for."""

    untyped = False
    scalar = False
    pictures: frozenset[str] = frozenset()
    classes: tuple[str, ...] = ()

    def __init__(self, arrays: Mapping[str, Callable[[], StoredRows]]) -> None:
        self._arrays = arrays
        self._found: dict[str, StoredRows] = {}
        self.names = tuple(arrays)

    def find_stored(self, name: str) -> StoredRows:
        """Return the rows of a column."""
        if name not in self._found:
            self._found[name] = self._arrays[name]()
        return self._found[name]

    def read_blocks(self, names: Sequence[str], words: frozenset[str]) -> Iterator[Mapping[str, Values]]:
        """Yield the named columns, some rows at a time."""
        arrays = {name: self.find_stored(name) for name in names}
        for start in range(0, min(map(len, arrays.values())), BLOCK_ROWS):
            yield {name: _to_numpy(rows[start : start + BLOCK_ROWS]) for name, rows in arrays.items()}


def _to_numpy(values: Tensor) -> NDArray[Any]:
    return (values.float() if values.dtype == torch.bfloat16 else values).numpy()


def read_npy(region: Region, spool: Spool) -> StoredRows:
    """Return the rows of a `.npy` file.

    Args:
        region: the file.
        spool: where an array goes that is stored column after column (Fortran order).

    Returns:
        The rows, not read yet.

    Raises:
        DataUnreadable: when it is damaged, pickled, or holds what no model takes.
    """
    where = f"/data/{region.name}" if region.name else "/data"
    with region.open() as file:
        try:
            shape, fortran, dtype = _read_header(file)
        except (ValueError, EOFError, OSError) as error:
            refuse_data("the file is not a readable .npy array", "a header of numpy.save", str(error), where=where)
        start = file.tell()
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if dtype.kind not in KINDS or dtype.itemsize > 8:
        raise DataUnreadable(_describe_dtype(region.name, str(dtype)))
    if not shape or min(shape) < 0 or start + size > region.size:
        got = f"shape {list(shape)} of {dtype} in {region.size - start} bytes"
        refuse_data("an array does not fit its file", "one row per example, all of them in the file", got, where=where)
    native = dtype.newbyteorder("=")
    stored = torch.from_numpy(np.empty(0, native)).dtype
    if fortran and len(shape) > 1:
        return StoredRows(_turn(region.within(start, size, region.name), shape, dtype, spool), 0, shape[0], shape[1:], stored)
    return StoredRows(region.path, region.offset + start, shape[0], shape[1:], stored, swapped=dtype != native)


def _read_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    version = npy.read_magic(file)
    if version not in READERS:
        message = f"version {version} of the format"
        raise ValueError(message)
    return READERS[version](file, max_header_size=MAX_HEADER_BYTES)


def _describe_dtype(name: str, dtype: str) -> Fault:
    return Fault(
        what=f"array {name!r} has a dtype that no model takes",
        where=f"/data/{name}",
        expected="numbers or booleans of at most 64 bits",
        got=dtype,
        advice="convert it before saving, for example with .astype('float32')",
    )


def _turn(region: Region, shape: tuple[int, ...], dtype: np.dtype[np.generic], spool: Spool) -> Path:
    """Write an array in Fortran order again, row after row, and return the new file."""
    whole = np.memmap(region.path, dtype, "r", region.offset, shape, order="F")
    path = spool.name_file()
    with path.open("wb", buffering=0) as file:
        for start in range(0, shape[0], BLOCK_ROWS):
            block = np.ascontiguousarray(whole[start : start + BLOCK_ROWS]).astype(dtype.newbyteorder("="), copy=False)
            spool.write(file, block.data)
    return path
