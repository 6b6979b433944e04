"""Read Arrow (files, streams, Feather) and Parquet, by pyarrow: batches of rows, lists as axes, no pickled extension types."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NoReturn

import numpy as np
from numpy.typing import NDArray

from worker.engine.data.regions import Region, refuse_data
from worker.engine.data.rows import StoredRows
from worker.engine.data.tables import BLOCK_ROWS, Problems, Values

STREAM_START = b"\xff\xff\xff\xff"
FILE_START = b"ARROW1"
PARQUET_START = b"PAR1"
OLD_FEATHER_START = b"FEA1"


class ArrowTable:
    """An Arrow or Parquet file."""

    untyped = False
    classes: tuple[str, ...] = ()

    def __init__(self, region: Region) -> None:
        import pyarrow as pa  # noqa: PLC0415 - imported by the audit process beforehand, by others when they need it

        self._region = region
        self._start = region.read(len(FILE_START))
        try:
            with region.open() as file:
                schema = self._open(file)[0]
        except (pa.ArrowException, OSError, ValueError) as error:
            _refuse_damaged(error)
        self.names = tuple(schema.names)
        if len(set(self.names)) < len(self.names):
            refuse_data("two columns have one name", "each name once", str(self.names)[:200])
        self.scalar = all(_is_plain(field.type) for field in schema)
        self.pictures = frozenset(field.name for field in schema if _holds_pictures(field.type))

    def find_stored(self, name: str) -> StoredRows | None:
        """Return nothing: columns lie in batches, which may be compressed."""
        return None

    def read_blocks(self, names: Sequence[str], words: frozenset[str]) -> Iterator[Mapping[str, Values]]:
        """Yield the named columns, some rows at a time."""
        import pyarrow as pa  # noqa: PLC0415

        problems, row = Problems(), 0
        try:
            with self._region.open() as file:
                for batch in self._open(file, names)[1]:
                    for start in range(0, batch.num_rows, BLOCK_ROWS):
                        part = batch.slice(start, BLOCK_ROWS)
                        columns = {name: _read_column(part.column(name), name, row, problems) for name in names}
                        row += part.num_rows
                        if not problems.count:
                            yield columns
        except (pa.ArrowException, OSError, ValueError) as error:
            _refuse_damaged(error)
        problems.raise_any()

    def _open(self, file: BinaryIO, names: Sequence[str] | None = None) -> tuple[Any, Iterator[Any]]:
        """Return the schema, and the batches of the named columns."""
        from pyarrow import ipc, parquet  # noqa: PLC0415

        if self._start[:4] == PARQUET_START:
            opened = parquet.ParquetFile(file, pre_buffer=False)
            return opened.schema_arrow, opened.iter_batches(BLOCK_ROWS, columns=names and list(names), use_threads=False)
        if self._start == FILE_START:
            reader = ipc.open_file(file)
            return reader.schema, (reader.get_batch(index) for index in range(reader.num_record_batches))
        if self._start[:4] != STREAM_START:
            advice = "write it as Arrow or Parquet; Feather of version 1 is read by no current library"
            refuse_data("the file is neither Arrow nor Parquet", "one of their beginnings", self._start.hex(), advice)
        stream = ipc.open_stream(file)
        return stream.schema, iter(stream)


class ShardedTable:
    """Tables of the same columns, one after another."""

    def __init__(self, tables: Sequence[Any], names: Sequence[str]) -> None:
        first = tables[0]
        for table, name in zip(tables, names, strict=True):
            if set(table.names) != set(first.names):
                expected = f"those of {names[0]}: {list(first.names)[:50]}"
                refuse_data(
                    "the files of the archive differ in their columns", expected, str(table.names)[:200], where=f"/data/{name}"
                )
        self._tables = tables
        self.names: tuple[str, ...] = first.names
        self.untyped: bool = first.untyped
        self.scalar: bool = first.scalar
        self.pictures: frozenset[str] = first.pictures
        self.classes: tuple[str, ...] = first.classes

    def find_stored(self, name: str) -> StoredRows | None:
        """Return nothing: the rows lie in several files."""
        return None

    def read_blocks(self, names: Sequence[str], words: frozenset[str]) -> Iterator[Mapping[str, Values]]:
        """Yield the named columns of one file after another."""
        for table in self._tables:
            yield from table.read_blocks(names, words)


def list_data_files(state: bytes) -> list[str]:
    """Return the Arrow files that the `state.json` of a saved `datasets` folder names, in order."""
    try:
        content = json.loads(state)
        return [str(entry["filename"]) for entry in content["_data_files"]]
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        refuse_data("state.json names no data files", "a folder that datasets saved to disk", f"{type(error).__name__}: {error}")


def _refuse_damaged(error: Exception) -> NoReturn:
    if isinstance(error, MemoryError):
        raise error
    refuse_data(
        "the file is damaged or not what it says", "a readable Arrow or Parquet file", f"{type(error).__name__}: {error}"[:300]
    )


def _is_plain(kind: Any) -> bool:
    """Tell whether a column is one number or one word per row."""
    from pyarrow import types  # noqa: PLC0415

    inner = kind.value_type if types.is_dictionary(kind) else kind
    return bool(_is_number(inner) or types.is_string(inner) or types.is_large_string(inner))


def _is_number(kind: Any) -> bool:
    from pyarrow import types  # noqa: PLC0415

    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind))


def _holds_pictures(kind: Any) -> bool:
    """Tell whether a column is encoded pictures: bytes, or what datasets makes of them, bytes beside a path."""
    from pyarrow import types  # noqa: PLC0415

    if types.is_struct(kind):
        places = [field.type for field in kind if field.name == "bytes"]
        return len(places) == 1 and _holds_pictures(places[0])
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _read_column(column: Any, name: str, row: int, problems: Problems) -> Values:
    """Return one column of a batch."""
    from pyarrow import types  # noqa: PLC0415

    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if types.is_struct(column.type) and _holds_pictures(column.type):
        column = column.field("bytes")
    if column.null_count:
        for index in np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False)):
            problems.add(row + int(index), name, "a value is missing", "a value in every row", "null")
        return []
    if types.is_string(column.type) or types.is_large_string(column.type) or _holds_pictures(column.type):
        words: list[Any] = column.to_pylist()
        return words
    return _nest(column, name)


def _nest(column: Any, name: str) -> Values:
    """Return numbers, or lists of numbers as an array; as a list of arrays where the rows differ in length."""
    from pyarrow import types  # noqa: PLC0415

    if isinstance(column.type, _extensions()):
        shape = getattr(column.type, "shape", None)
        flat = _nest(column.storage, name)
        return flat.reshape(len(column), *shape) if shape is not None and isinstance(flat, np.ndarray) else flat
    if column.null_count:
        refuse_data(f"a list in column {name!r} has a missing value", "numbers only", "null", where=f"/data/{name}")
    if types.is_list(column.type) or types.is_large_list(column.type) or types.is_fixed_size_list(column.type):
        return _split(_nest(column.flatten(), name), np.asarray(column.value_lengths()), name)
    if not _is_number(column.type):
        refuse_data(
            f"column {name!r} has a type that no model takes",
            "numbers, or lists of numbers",
            str(column.type),
            where=f"/data/{name}",
        )
    values: NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return values


def _split(inner: Values, lengths: NDArray[Any], name: str) -> Values:
    if not isinstance(inner, np.ndarray):
        refuse_data(f"lists inside the rows of column {name!r} differ in length", "lists that differ at the outermost level only")
    if len(lengths) and (lengths == lengths[0]).all():
        return inner.reshape(len(lengths), int(lengths[0]), *inner.shape[1:])
    return np.split(inner, np.cumsum(lengths)[:-1])


def _extensions() -> tuple[type, ...]:
    import pyarrow as pa  # noqa: PLC0415

    return (pa.ExtensionType, pa.BaseExtensionType)
