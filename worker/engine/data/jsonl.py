"""Read JSON lines: one object per line and example, numbers or nested lists under its keys."""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from worker.engine.data.regions import Region, refuse_data
from worker.engine.data.rows import StoredRows
from worker.engine.data.tables import BLOCK_ROWS, Problems, Values

MAX_LINE_BYTES = 2**28


class JsonLinesTable:
    """A JSON lines file. Numbers have no type: they become what the model's input is, or whole numbers where all are."""

    untyped = True
    scalar = False
    pictures: frozenset[str] = frozenset()
    classes: tuple[str, ...] = ()

    def __init__(self, region: Region) -> None:
        self._region = region
        with region.open() as file:
            first = file.readline(MAX_LINE_BYTES)
        try:
            content = json.loads(first, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            refuse_data("the first line is no JSON", "one JSON object per line", str(error), where="/data/0")
        if not isinstance(content, dict):
            refuse_data("the first line is no JSON object", "names and values", type(content).__name__, where="/data/0")
        self.names = tuple(content)

    def find_stored(self, name: str) -> StoredRows | None:
        """Return nothing: text is decoded."""
        return None

    def read_blocks(self, names: Sequence[str], words: frozenset[str]) -> Iterator[Mapping[str, Values]]:
        """Yield the named columns: float64, or words, or lists of arrays that differ in length."""
        problems = Problems()
        with self._region.open() as file:
            lines = (line for line in iter(lambda: file.readline(MAX_LINE_BYTES), b"") if line.strip())
            start = 0
            while block := list(islice(lines, BLOCK_ROWS)):
                rows = [_parse(line, start + index, names, problems) for index, line in enumerate(block)]
                columns = {
                    name: _gather([row.get(name) for row in rows], start, name, problems, may_be_words=name in words)
                    for name in names
                }
                start += len(block)
                if not problems.count:
                    yield columns
        problems.raise_any()


def _parse(line: bytes, row: int, names: Sequence[str], problems: Problems) -> dict[str, Any]:
    try:
        content = json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        problems.add(row, "line", "a line is no JSON", "one JSON object", str(error))
        return {}
    if not isinstance(content, dict):
        problems.add(row, "line", "a line is no JSON object", "names and values", type(content).__name__)
        return {}
    for name in names:
        if content.get(name) is None:
            problems.add(row, name, f"an example has no {name!r}", "a value in every line", "nothing")
    return content


def _gather(values: list[Any], start: int, name: str, problems: Problems, *, may_be_words: bool) -> Values:
    """Return one column of a block; problems are noted by row."""
    if may_be_words and any(isinstance(value, str) for value in values):
        for index, value in enumerate(values):
            if value is not None and not isinstance(value, str):
                problems.add(start + index, name, "a label is no word", "the name of a class", repr(value))
        return values
    arrays = [_read_numbers(value, start + index, name, problems) for index, value in enumerate(values)]
    if len({array.shape for array in arrays}) == 1:
        return np.stack(arrays)
    return arrays


def _read_numbers(value: Any, row: int, name: str, problems: Problems) -> NDArray[np.float64]:
    if value is None:
        return np.zeros(())
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError) as error:
        problems.add(row, name, "lists inside an example differ in length", "a rectangle of numbers", str(error))
        return np.zeros(())
    if array.dtype.kind not in "biuf":
        problems.add(row, name, "a value is no number", "numbers, or lists of numbers", repr(value)[:100])
        return np.zeros(())
    return array.astype(np.float64)


def _refuse_constant(text: str) -> NoReturn:
    message = f"{text} is no JSON number"
    raise ValueError(message)
