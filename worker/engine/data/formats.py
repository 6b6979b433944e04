"""Formats of single files: told by their first bytes; each opens as a Table."""

from collections.abc import Callable
from functools import partial

from worker.engine.data.arrow import (
    FILE_START,
    OLD_FEATHER_START,
    PARQUET_START,
    STREAM_START,
    ArrowTable,
)
from worker.engine.data.csv import CsvTable
from worker.engine.data.jsonl import JsonLinesTable
from worker.engine.data.npy import ArrayTable, read_npy
from worker.engine.data.regions import Region, refuse_data
from worker.engine.data.safetensors import looks_like_safetensors, open_safetensors
from worker.engine.data.spool import Spool
from worker.engine.data.tables import Table

FORMATS = ("npz", "npy", "safetensors", "parquet", "arrow", "csv", "jsonl", "images", "tar", "datasets")
SINGLE = "inputs"
"""What the array of a `.npy` file is called."""


def find_format(start: bytes, size: int) -> str:
    """Return the format that a file's first bytes show; "archive" for tar and zip."""
    if start[:4] == b"PK\x03\x04" or start[257:262] == b"ustar":
        return "archive"
    if start[:6] == b"\x93NUMPY":
        return "npy"
    if start[:4] == PARQUET_START:
        return "parquet"
    if start[:6] == FILE_START or start[:4] in {STREAM_START, OLD_FEATHER_START}:
        return "arrow"
    if looks_like_safetensors(start, size):
        return "safetensors"
    if start[:1] == b"\x80":
        refuse_data("the file is a pickle, which is never opened", "arrays or text", start[:8].hex(), "save plain arrays")
    if b"\x00" in start:
        refuse_data("the format of the data file is not known", f"one of {', '.join(FORMATS)}", start[:16].hex())
    return "jsonl" if start.lstrip()[:1] == b"{" else "csv"


def _open_npy(region: Region, spool: Spool) -> Table:
    return ArrayTable({SINGLE: partial(read_npy, region, spool)})


OPEN: dict[str, Callable[[Region, Spool], Table]] = {
    "npy": _open_npy,
    "safetensors": lambda region, _: open_safetensors(region),
    "parquet": lambda region, _: ArrowTable(region),
    "arrow": lambda region, _: ArrowTable(region),
    "csv": lambda region, _: CsvTable(region),
    "jsonl": lambda region, _: JsonLinesTable(region),
}
