"""Read a data file of any format: the examples, in memory or where they can be read batch by batch."""

from collections.abc import Iterable, Mapping

import torch

from schemas.errors import DataMismatch, DataUnreadable, Fault
from worker.engine.data.choosing import Chosen, choose_columns
from worker.engine.data.dataset import Dataset
from worker.engine.data.decoding import Column, check_finish, decode_columns
from worker.engine.data.files import Conversion, DataFile, Wanted
from worker.engine.data.folders import open_archive
from worker.engine.data.formats import OPEN, find_format
from worker.engine.data.regions import Region, refuse_data
from worker.engine.data.rows import Rows, StoredRows
from worker.engine.data.spool import Spool
from worker.engine.data.tables import Table

MAGIC_BYTES = 512
LABELS = "labels of the loss"
"""Stands for the labels among the inputs; no input of a model has such a name."""


def load_data(file: DataFile, wanted: Wanted) -> Dataset:
    """Read the arrays that the model and the loss need.

    Args:
        file: the file and how to read it.
        wanted: the model's inputs, and whether there must be labels; without, the target is the row numbers.

    Returns:
        The examples.

    Raises:
        DataUnreadable: with every fault of a file that is damaged, pickled or not what its format says.
        DataMismatch: with every array that is missing, of another length, or empty.
    """
    spool = Spool(file.scratch)
    table = open_table(file, spool)
    target = file.target if wanted.labels else None
    chosen, labels = choose_columns(table.names, dict(file.columns), target, tuple(wanted.inputs), scalar=table.scalar)
    columns = _plan_columns(file, wanted, chosen, labels)
    rows = _read_columns(table, columns, spool)
    found = rows.pop(LABELS, None)
    count = len(next(iter(rows.values()))) if rows else 0 if found is None else len(found)
    if not count:
        raise DataMismatch(Fault("the data holds no examples", "/data", "at least one example", "0", "add examples"))
    return Dataset(rows, torch.arange(count) if found is None else found)


def open_table(file: DataFile, spool: Spool) -> Table:
    """Return the open data file; DataUnreadable when it is damaged or not of its format."""
    region = Region.of(file.path)
    start = region.read(MAGIC_BYTES)
    if not start:
        refuse_data("the data file is empty", "a data file", "0 bytes")
    found = find_format(start, region.size)
    if found == "archive":
        return open_archive(region, start, file, spool)
    chosen = found if file.format == "auto" else file.format
    if chosen not in OPEN:
        refuse_data(f"the file is no {file.format} data", f"a tar or zip archive for format {file.format}", f"a {found} file")
    return OPEN[chosen](region, spool)


def _plan_columns(file: DataFile, wanted: Wanted, chosen: Mapping[str, Chosen], labels: str | None) -> dict[str, Column]:
    conversions = dict(file.conversions)
    strangers = [name for name in conversions if name not in chosen and name != labels]
    if strangers:
        expected = f"one of {[*chosen, *([labels] if labels else [])]}"
        advice = "data.convert names inputs of the model, and the column of the labels"
        raise DataMismatch(
            *(
                Fault("data.convert names nothing that is read", f"/data/convert/{name}", expected, name, advice)
                for name in strangers
            )
        )
    plain = Conversion()
    columns = {
        name: Column(found.names, found.joined, conversions.get(name, plain), wanted.inputs[name], pictures=file.pictures)
        for name, found in chosen.items()
    }
    if labels is not None:
        conversion = conversions.get(labels, plain)
        masks = None if file.pictures is None else file.pictures.for_masks()
        columns[LABELS] = Column((labels,), False, conversion, wanted.label_dtype, file.classes, masks)  # noqa: FBT003 - one column
    return columns


def _read_columns(table: Table, columns: Mapping[str, Column], spool: Spool) -> dict[str, Rows]:
    """Return the rows of every column: those that are stored row after row where they are, the others decoded."""
    places = _find_stored(table, [name for column in columns.values() for name in column.names])
    _check_lengths(places)
    stored: dict[str, Rows] = {}
    decoded: dict[str, Column] = {}
    for name, column in columns.items():
        rows = places.get(column.names[0])
        if rows is None or column.joined or column.conversion.pad_to is not None:
            decoded[name] = column
        else:
            stored[name] = spool.settle(rows.with_finish(check_finish(column.conversion.finish, rows.row, column.name)))
    return stored | (decode_columns(table, decoded, spool) if decoded else {})


def _find_stored(table: Table, names: Iterable[str]) -> dict[str, StoredRows]:
    """Return the columns that are stored row after row; what is wrong with several is told together."""
    found: dict[str, StoredRows] = {}
    faults: list[Fault] = []
    for name in dict.fromkeys(names):
        try:
            rows = table.find_stored(name)
        except DataUnreadable as error:
            faults += error.faults
        else:
            found |= {} if rows is None else {name: rows}
    if faults:
        raise DataUnreadable(*faults)
    return found


def _check_lengths(arrays: Mapping[str, StoredRows]) -> None:
    lengths = {name: len(value) for name, value in arrays.items()}
    if len(set(lengths.values())) > 1:
        advice = "give every array one row per example"
        raise DataMismatch(Fault("the arrays differ in length", "/data", "one length for all", str(lengths), advice))
