"""Read CSV: one header, then one example per line, in plain numbers."""

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from schemas.errors import DataUnreadable, Fault
from worker.engine.data.regions import Region, refuse_data
from worker.engine.data.rows import StoredRows
from worker.engine.data.tables import Problems, Values

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_HEADER_BYTES = 2**22
BLOCK_BYTES = 2**20


class CsvTable:
    """A CSV file. Numbers have no type: they become what the model's input is, or whole numbers where all are."""

    untyped = True
    scalar = True
    pictures: frozenset[str] = frozenset()
    classes: tuple[str, ...] = ()

    def __init__(self, region: Region) -> None:
        self._region = region
        self.names = _read_names(region)

    def find_stored(self, name: str) -> StoredRows | None:
        """Return nothing: text is decoded."""
        return None

    def read_blocks(self, names: Sequence[str], words: frozenset[str]) -> Iterator[Mapping[str, Values]]:
        """Yield the named columns as float64, or as words."""
        import pyarrow as pa  # noqa: PLC0415 - imported by the audit process beforehand, by others when they need it
        from pyarrow import csv as reader  # noqa: PLC0415

        types = {name: pa.string() if name in words else pa.float64() for name in names}
        options = reader.ConvertOptions(
            column_types=types, include_columns=list(names), null_values=[""], strings_can_be_null=True
        )
        try:
            with self._region.open() as file:
                opened = reader.open_csv(
                    file, reader.ReadOptions(use_threads=False, block_size=BLOCK_BYTES), convert_options=options
                )
                for batch in opened:
                    if any(column.null_count for column in batch.columns):
                        self._explain(names, words, "a cell is empty")
                    yield {name: _take_column(column) for name, column in zip(names, batch.columns, strict=True)}
        except pa.ArrowInvalid as error:
            self._explain(names, words, str(error))

    def _explain(self, names: Sequence[str], words: frozenset[str], otherwise: str) -> None:
        """Read the file again, slowly, and raise with every cell that is no number."""
        problems = Problems()
        places = {name: self.names.index(name) for name in names}
        with self._region.open() as file:
            text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="replace", newline="")
            rows = csv.reader(text)
            next(rows)
            for number, row in enumerate(row for row in rows if row):
                if len(row) != len(self.names):
                    problems.add(
                        number, "row", "a row has another number of cells than the header", f"{len(self.names)}", f"{len(row)}"
                    )
                    continue
                for name, place in places.items():
                    if not row[place] or (name not in words and not _is_number(row[place])):
                        problems.add(
                            number, name, "a cell is no number" if row[place] else "a cell is empty", "a number", row[place]
                        )
        problems.raise_any()
        refuse_data("the file is not readable as CSV", "commas between cells, one header, UTF-8", otherwise)


def _take_column(column: Any) -> Values:
    values: NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return values.tolist() if values.dtype == object else values


def _is_number(text: str) -> bool:
    try:
        return not math.isnan(float(text))
    except ValueError:
        return False


def _read_names(region: Region) -> tuple[str, ...]:
    start = region.read(MAX_HEADER_BYTES).decode("utf-8-sig", errors="replace")
    try:
        names = next(csv.reader(io.StringIO(start)), [])
    except csv.Error as error:
        refuse_data("the file is not readable as CSV", "a line with the columns' names", str(error))
    faults = [
        Fault(f"the header names column {name!r} twice", "/data", "each name once", "", "rename one")
        for name in sorted(set(names))
        if names.count(name) > 1
    ]
    if "\n" not in start:
        refuse_data("the file is neither of a known format nor CSV", "a header and one line per example", start[:100])
    if not names or all(_is_number(name) for name in names):
        advice = "write the columns' names into the first line"
        faults.append(
            Fault("the CSV file has no header", "/data", "a first line with the columns' names", ", ".join(names)[:200], advice)
        )
    if faults:
        raise DataUnreadable(*faults)
    return tuple(names)
