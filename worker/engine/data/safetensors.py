"""Read safetensors files: a length, a JSON header, and the arrays one after another."""

import json
import math
from functools import partial
from typing import Any, TypeGuard

import torch

from schemas.errors import DataUnreadable, Fault
from worker.engine.data.npy import ArrayTable
from worker.engine.data.regions import Region, refuse_data
from worker.engine.data.rows import StoredRows

MAX_HEADER_BYTES = 100 * 2**20
LENGTH_BYTES = 8
DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "U16": torch.uint16,
    "I16": torch.int16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}


def open_safetensors(region: Region) -> ArrayTable:
    """Return the arrays of a safetensors file.

    Args:
        region: the file.

    Returns:
        Its arrays, in the order of the header.

    Raises:
        DataUnreadable: when the header cannot be read; what is wrong with an array is told when it is asked for.
    """
    header, start = _read_header(region)
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    return ArrayTable({name: partial(_find_rows, region, start, name, entry) for name, entry in entries.items()})


def looks_like_safetensors(start: bytes, size: int) -> bool:
    """Tell by the first bytes: a header's length that fits the file, then JSON."""
    return (
        start[LENGTH_BYTES : LENGTH_BYTES + 1] == b"{" and int.from_bytes(start[:LENGTH_BYTES], "little") <= size - LENGTH_BYTES
    )


def _read_header(region: Region) -> tuple[dict[str, Any], int]:
    length = int.from_bytes(region.read(LENGTH_BYTES), "little")
    if not 0 < length <= min(MAX_HEADER_BYTES, region.size - LENGTH_BYTES):
        refuse_data("the file is not a readable safetensors file", "the length of its header", f"{length}")
    try:
        header = json.loads(region.within(LENGTH_BYTES, length, region.name).read())
    except (ValueError, RecursionError) as error:
        refuse_data("the header of the safetensors file is no JSON", "JSON", str(error))
    if not isinstance(header, dict):
        refuse_data("the header of the safetensors file is no object", "names and arrays", type(header).__name__)
    return header, LENGTH_BYTES + length


def _find_rows(region: Region, start: int, name: str, entry: Any) -> StoredRows:
    where = f"/data/{name}"
    given = entry if isinstance(entry, dict) else {}
    shape, span, dtype = given.get("shape"), given.get("data_offsets"), DTYPES.get(str(given.get("dtype")))
    if dtype is None:
        expected = f"one of {', '.join(DTYPES)}"
        raise DataUnreadable(
            Fault(
                f"array {name!r} has a dtype that no model takes",
                where,
                expected,
                str(given.get("dtype")),
                "convert it before saving",
            )
        )
    if not (_are_counts(shape) and shape and _are_counts(span) and len(span) == 2 and span[0] <= span[1]):
        refuse_data(
            f"array {name!r} is described wrongly", "a shape with one row per example, and offsets", str(entry)[:200], where=where
        )
    size = math.prod(shape) * dtype.itemsize
    if size != span[1] - span[0]:
        refuse_data(f"array {name!r} does not fill its place", f"{size} bytes", f"{span[1] - span[0]} bytes", where=where)
    found = region.within(start + span[0], size, name)
    return StoredRows(found.path, found.offset, shape[0], tuple(shape[1:]), dtype)


def _are_counts(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(entry) is int and 0 <= entry < 2**48 for entry in value)
