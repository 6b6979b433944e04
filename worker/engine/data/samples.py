"""Archives whose examples are files: pictures in folders of classes, and samples of several files with one name (WebDataset)."""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.lib import format as npy

from worker.engine.data.archives import Member
from worker.engine.data.pictures import SUFFIXES
from worker.engine.data.rows import StoredRows
from worker.engine.data.tables import Problems, Values

BLOCK_SAMPLES = 64
MAX_MEMBER_BYTES = 2**28
PICTURES, LABELS = "images", "labels"
NUMBERS = frozenset({"cls", "cls2", "index", "inx", "id", "count", "txt", "text"})
"""Suffixes of files that hold one number, or a word, as text."""


class PictureFolder:
    """Pictures, in folders whose names are their classes."""

    untyped = False
    scalar = False
    pictures = frozenset({PICTURES})

    def __init__(self, members: Sequence[Member], classes: Sequence[str]) -> None:
        self._members = members
        found = {_find_class(member) for member in members}
        self.names: tuple[str, ...] = (PICTURES, LABELS) if "" not in found else (PICTURES,)
        self.classes = tuple(classes) or tuple(sorted(found))

    def find_stored(self, name: str) -> StoredRows | None:
        """Return nothing: pictures are decoded."""
        return None

    def read_blocks(self, names: Sequence[str], words: frozenset[str]) -> Iterator[Mapping[str, Values]]:
        """Yield encoded pictures and the names of their classes."""
        for start in range(0, len(self._members), BLOCK_SAMPLES):
            block = self._members[start : start + BLOCK_SAMPLES]
            pictures = [member.read(MAX_MEMBER_BYTES) for member in block] if PICTURES in names else []
            yield {name: pictures if name == PICTURES else [_find_class(member) for member in block] for name in names}


def _find_class(member: Member) -> str:
    """Return the name of the folder that a file lies in."""
    return member.name.rpartition("/")[0].rpartition("/")[2]


class SampleTable:
    """Files that belong to one sample where their names are the same up to the first dot; the rest of the name is the column.

    The keys of JSON objects are columns of their own, such as `json.label`.
    """

    untyped = True
    scalar = False
    classes: tuple[str, ...] = ()

    def __init__(self, members: Sequence[Member]) -> None:
        self._samples: dict[str, dict[str, Member]] = {}
        for member in members:
            folder, slash, name = member.name.rpartition("/")
            key, _, column = name.partition(".")
            self._samples.setdefault(folder + slash + key, {})[column.lower()] = member
        first = next(iter(self._samples.values()))
        self.names = tuple(name for column in first for name in _list_names(column, first[column]))
        self.pictures = frozenset(name for name in self.names if _find_kind(name) in SUFFIXES)

    def find_stored(self, name: str) -> StoredRows | None:
        """Return nothing: every value is in a file of its own."""
        return None

    def read_blocks(self, names: Sequence[str], words: frozenset[str]) -> Iterator[Mapping[str, Values]]:
        """Yield the named columns, some samples at a time."""
        problems = Problems()
        samples = list(self._samples.values())
        for start in range(0, len(samples), BLOCK_SAMPLES):
            block = samples[start : start + BLOCK_SAMPLES]
            columns = {
                name: [self._read(sample, name, start + index, problems, words) for index, sample in enumerate(block)]
                for name in names
            }
            if not problems.count:
                yield {name: _stack(values) for name, values in columns.items()}
        problems.raise_any()

    def _read(self, sample: Mapping[str, Member], name: str, row: int, problems: Problems, words: frozenset[str]) -> Any:
        column, _, key = (name, "", "") if name in sample else name.rpartition(".")
        member = sample.get(column)
        if member is None:
            problems.add(row, name, "a sample has no such file", f"a file .{column} in every sample", str(list(sample))[:100])
            return None
        content = member.read(MAX_MEMBER_BYTES)
        if name in self.pictures:
            return content
        try:
            return _parse(content, _find_kind(column), key, may_be_word=name in words)
        except (ValueError, KeyError, TypeError, EOFError, RecursionError) as error:
            problems.add(row, name, "a file of a sample cannot be read", "numbers", f"{member.name}: {error}")
            return None


def _find_kind(column: str) -> str:
    return column.rpartition(".")[2]


def _list_names(column: str, member: Member) -> list[str]:
    """Return the columns that a file of a sample gives."""
    if _find_kind(column) == "json":
        try:
            content = json.loads(member.read(MAX_MEMBER_BYTES))
        except (ValueError, RecursionError):
            return [column]
        if isinstance(content, dict):
            return [f"{column}.{key}" for key in content]
    return [column]


def _parse(content: bytes, kind: str, key: str, *, may_be_word: bool) -> Any:
    if kind == "npy":
        value: Any = npy.read_array(io.BytesIO(content), allow_pickle=False, max_header_size=10_000)
    elif kind == "json":
        value = json.loads(content)
        value = value[key] if key else value
    elif kind in NUMBERS:
        text = content.decode().strip()
        value = text if may_be_word else float(text)
    else:
        message = f"files of kind .{kind} are not read"
        raise ValueError(message)
    if isinstance(value, str) and may_be_word:
        return value
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        message = f"{str(value)[:100]!r} is no number"
        raise ValueError(message)
    return array.astype(np.float64)


def _stack(values: list[Any]) -> Values:
    """Return an array where all values are numbers of one shape, else the list."""
    shapes = {value.shape if isinstance(value, np.ndarray) else None for value in values}
    return np.stack(values) if len(shapes) == 1 and None not in shapes else values
