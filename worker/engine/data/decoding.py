"""Decode columns block by block into arrays of one shape and dtype, and note every row that does not fit."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from worker.engine.data.files import Conversion
from worker.engine.data.pictures import Pictures, decode_pictures
from worker.engine.data.regions import refuse_data
from worker.engine.data.rows import Finish, Rows
from worker.engine.data.spool import Spool, Writer
from worker.engine.data.tables import Problems, Table, Values

LARGEST_EXACT = 2.0**53
"""Above it a float64 does not hold every integer."""


@dataclass(frozen=True)
class Column:
    """An array to be made of columns of a file.

    joined: several columns of numbers that form one vector. dtype: what numbers without a type become; None: whole numbers
    where all are, else float32. pictures: how encoded pictures become numbers; None for other columns.
    """

    names: tuple[str, ...]
    joined: bool
    conversion: Conversion
    dtype: torch.dtype | None
    classes: tuple[str, ...] = ()
    pictures: Pictures | None = None

    @property
    def name(self) -> str:
        """What faults call it."""
        return self.names[0]


def decode_columns(table: Table, columns: Mapping[str, Column], spool: Spool) -> dict[str, Rows]:
    """Return the rows of some columns of a table, read once from its start to its end."""
    problems = Problems()
    fitted = {name: _fit_column(column, table) for name, column in columns.items()}
    decoders = {name: Decoder(column, spool, problems, untyped=table.untyped) for name, column in fitted.items()}
    names = tuple(dict.fromkeys(name for column in columns.values() for name in column.names))
    words = frozenset(column.name for column in fitted.values() if column.classes)
    for block in table.read_blocks(names, words):
        for decoder in decoders.values():
            decoder.take(block)
    problems.raise_any()
    return {name: decoder.finish() for name, decoder in decoders.items()}


def _fit_column(column: Column, table: Table) -> Column:
    """Return the column with its classes, and with a way to decode its pictures only where it has some."""
    if column.name not in table.pictures:
        return replace(column, classes=column.classes or table.classes, pictures=None)
    conversion = column.conversion
    if column.pictures is None:
        refuse_data(
            f"column {column.name!r} holds pictures, and nothing says how they become numbers",
            "data.preprocess with resize, crop, mean and std",
            "nothing",
            "give what the model was trained with; {} for pictures of one size, scaled to [0, 1]",
            "/data/preprocess",
        )
    if conversion != Conversion(dtype=conversion.dtype):
        refuse_data(
            f"data.convert changes the pictures of {column.name!r}", "dtype only", "more", "use data.preprocess", "/data/convert"
        )
    return column


class Decoder:
    """Takes one array's blocks."""

    def __init__(self, column: Column, spool: Spool, problems: Problems, *, untyped: bool) -> None:
        self._column = column
        self._problems = problems
        self._untyped = untyped and column.pictures is None
        self._writer = Writer(spool, column.name)
        self._row = 0
        self._whole = True
        self._classes = {name: number for number, name in enumerate(column.classes)}

    def take(self, block: Mapping[str, Values]) -> None:
        """Convert and append some rows; what does not fit is noted."""
        parts = [block[name] for name in self._column.names]
        values = self._decode(parts[0]) if self._column.pictures else self._shape(parts)
        if isinstance(values, np.ndarray) and not self._problems.count:
            self._append(self._type(values) if self._untyped else values)
        self._row += len(parts[0])

    def _decode(self, contents: Values) -> Values:
        pictures = self._column.pictures or Pictures()
        found = decode_pictures(list(contents), pictures, self._row, self._column.name, self._problems)
        return [] if found is None else found

    def _shape(self, parts: Sequence[Values]) -> Values:
        return self._join(parts) if self._column.joined else self._pad(self._number_classes(parts[0]))

    def finish(self) -> Rows:
        """Return all rows."""
        conversion = self._column.conversion
        finish = conversion.finish
        if self._column.pictures:
            finish = self._column.pictures.make_finish(conversion.dtype)
        if self._untyped and self._wanted is None:
            finish = replace(finish, dtype=torch.int64 if self._whole else torch.float32)
        elif self._untyped and conversion.dtype is None:
            finish = replace(finish, dtype=self._wanted)
        return self._writer.finish(check_finish(finish, self._writer.row, self._column.name) if self._writer.count else finish)

    @property
    def _wanted(self) -> torch.dtype | None:
        conversion = self._column.conversion
        return conversion.dtype or (torch.float32 if conversion.makes_float else self._column.dtype)

    def _append(self, values: NDArray[Any]) -> None:
        if self._writer.fits(values):
            self._writer.add(values)
        else:
            got, expected = f"shape {list(values.shape[1:])}", f"shape {list(self._writer.row)}, as in the rows before"
            self._note(0, "an example differs in shape or type from those before", expected, got)

    def _join(self, parts: Sequence[Values]) -> Values:
        """Return [n, k] from k columns of single numbers."""
        vectors = [part for part in parts if isinstance(part, np.ndarray) and part.ndim == 1]
        if len(vectors) < len(parts):
            self._note(0, "columns that form one vector must hold single numbers", "one number per row", "something else")
            return []
        return np.stack(vectors, axis=1)

    def _number_classes(self, values: Values) -> Values:
        """Return the numbers of classes that are given as words."""
        if isinstance(values, np.ndarray) or not all(isinstance(value, str) for value in values):
            return values
        for index, word in enumerate(values):
            if word not in self._classes:
                expected = f"one of {list(self._classes)[:50]}" if self._classes else "numbers, or names that data.classes lists"
                self._note(index, "a label names no class", expected, repr(word))
        return np.array([self._classes.get(word, 0) for word in values], np.int64)

    def _pad(self, values: Values) -> Values:
        """Return rows of one length, filled up at their ends."""
        length = self._column.conversion.pad_to
        if length is None:
            if not isinstance(values, np.ndarray):
                self._refuse_ragged(values)
            return values
        for index, row in enumerate(values):
            if np.ndim(row) == 0 or len(row) > length:
                self._note(
                    index, "an example is longer than pad_to", f"a list of at most {length}", f"shape {list(np.shape(row))}"
                )
        if self._problems.count:
            return []
        first = np.asarray(values[0])
        padded = np.full((len(values), length, *first.shape[1:]), self._column.conversion.pad_value, first.dtype)
        for index, row in enumerate(values):
            padded[index, : len(row)] = row
        return padded

    def _refuse_ragged(self, values: Sequence[Any]) -> None:
        first = np.shape(values[0]) if values else ()
        for index, row in enumerate(values):
            if np.shape(row) != first:
                self._note(
                    index, "an example differs in shape from the first", f"shape {list(first)}", f"shape {list(np.shape(row))}"
                )

    def _type(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return numbers without a type in the one that is wanted, or as float64 while nothing is known."""
        whole = (values == np.floor(values)) & (np.abs(values) <= LARGEST_EXACT)
        wanted = self._wanted
        if wanted is None:
            self._whole = self._whole and bool(whole.all())
            return values
        if wanted.is_floating_point:
            return values.astype({torch.float64: np.float64, torch.float16: np.float16}.get(wanted, np.float32))
        for index in np.flatnonzero(~whole.reshape(len(values), -1).all(1)):
            self._note(int(index), "a value is no whole number", "whole numbers of at most 53 bits", str(values[index])[:100])
        return values.astype(np.int64)

    def _note(self, index: int, what: str, expected: str, got: str) -> None:
        self._problems.add(self._row + index, self._column.name, what, expected, got)


def check_finish(finish: Finish, row: tuple[int, ...], name: str) -> Finish:
    """Return what is to be done to rows of a shape; DataUnreadable when it cannot be."""
    shape = row if finish.shape is None else finish.shape
    if math.prod(shape) != math.prod(row):
        got = f"{list(row)} to {list(shape)}"
        refuse_data(f"the rows of {name!r} do not have the declared shape", "as many values", got, "correct data.convert")
    channels = (shape or (1,))[-1 if finish.channels_last else 0]
    for numbers in (finish.mean, finish.std):
        if len(numbers) not in {0, 1, channels}:
            expected = f"one number, or {channels} for rows of shape {list(shape)}"
            refuse_data(f"mean and std of {name!r} do not fit", expected, str(len(numbers)), "give one number per channel")
    return finish
