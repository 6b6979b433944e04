"""Table: what every data format is once its file is open: named columns, stored row after row or decoded block by block."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from numpy.typing import NDArray

from schemas.errors import DataUnreadable, Fault
from worker.engine.data.rows import StoredRows

BLOCK_ROWS = 1024
"""Rows that are decoded at a time."""
SHOWN_PROBLEMS = 20
MOST_PROBLEMS = 1000
"""Reading stops there."""

ADVICE = "correct the row or leave it out; data.classes names classes that are words, data.convert pads rows of different length"

Values = NDArray[Any] | list[Any]
"""A block of a column: an array [n, ...], or a list of arrays that differ in length, of words, or of encoded pictures."""


class Table(Protocol):
    """An open data file.

    names: its columns, in order. untyped: its numbers have no type of their own (text). scalar: all columns are single numbers.
    pictures: columns of encoded pictures. classes: names of the classes, where the file itself has them.
    """

    names: tuple[str, ...]
    untyped: bool
    scalar: bool
    pictures: frozenset[str]
    classes: tuple[str, ...]

    def find_stored(self, name: str) -> StoredRows | None:
        """Return the rows of a column that is stored row after row; None for one that must be decoded."""

    def read_blocks(self, names: Sequence[str], words: frozenset[str]) -> Iterator[Mapping[str, Values]]:
        """Yield the named columns, some rows at a time; `words` may hold text instead of numbers."""


class Problems:
    """Collects what is wrong with single rows, and says it all at once."""

    def __init__(self) -> None:
        self._found: list[tuple[int, Fault]] = []
        self.count = 0

    def add(self, row: int, column: str, what: str, expected: str, got: str) -> None:
        """Note what is wrong in a row, numbered from 0; raise when there is too much to go on."""
        self.count += 1
        if len(self._found) < SHOWN_PROBLEMS:
            self._found.append((row, Fault(what, f"/data/{column}/{row}", expected, got[:200], ADVICE)))
        if self.count >= MOST_PROBLEMS:
            self.raise_any()

    def raise_any(self) -> None:
        """Raise DataUnreadable, by rows, when anything was noted."""
        if self._found:
            more = self.count - len(self._found)
            rest = [Fault(f"{more} more problems with rows", "/data", "none", str(more), "correct those above first")]
            faults = [fault for _, fault in sorted(self._found, key=lambda found: found[0])]
            raise DataUnreadable(*faults, *(rest if more else []))
