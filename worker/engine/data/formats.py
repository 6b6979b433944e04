"""Formats: told by a file's first bytes, or declared; each opens a file as a Table."""

from collections.abc import Callable
from functools import partial

from schemas.errors import DataUnreadable, Fault
from worker.engine.data.archives import Member, list_members, walk_suffixes
from worker.engine.data.arrow import (
    FILE_START,
    OLD_FEATHER_START,
    PARQUET_START,
    STREAM_START,
    ArrowTable,
    ShardedTable,
    list_data_files,
)
from worker.engine.data.csv import CsvTable
from worker.engine.data.files import DataFile
from worker.engine.data.jsonl import JsonLinesTable
from worker.engine.data.npy import ArrayTable, read_npy
from worker.engine.data.regions import Region, refuse_data
from worker.engine.data.rows import StoredRows
from worker.engine.data.safetensors import looks_like_safetensors, open_safetensors
from worker.engine.data.spool import Spool
from worker.engine.data.tables import Table

MAGIC_BYTES = 512
MAX_STATE_BYTES = 2**24
FORMATS = ("npz", "npy", "safetensors", "parquet", "arrow", "csv", "jsonl", "datasets")
SINGLE = "inputs"
"""What the array of a `.npy` file is called."""


def open_table(file: DataFile, spool: Spool) -> Table:
    """Return the open data file.

    Args:
        file: the file, and its format or "auto".
        spool: where the members of compressed archives are unpacked.

    Returns:
        Its columns.

    Raises:
        DataUnreadable: when it is damaged or not of its format.
    """
    region = Region.of(file.path)
    start = region.read(MAGIC_BYTES)
    if not start:
        refuse_data("the data file is empty", "a data file", "0 bytes")
    found = find_format(start, region.size)
    if found == "archive":
        return _open_archive(list_members(region, start), file, spool)
    chosen = found if file.format == "auto" else file.format
    if chosen not in OPEN:
        refuse_data(f"the file is no {file.format} data", f"a tar or zip archive for format {file.format}", f"a {found} file")
    return OPEN[chosen](region, spool)


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


SUFFIXES = {"parquet": "parquet", "arrow": "arrow", "feather": "arrow", "csv": "csv", "jsonl": "jsonl", "ndjson": "jsonl"}
"""Suffixes of files that, several in one archive, follow each other as one table."""


def _open_archive(members: list[Member], file: DataFile, spool: Spool) -> Table:
    """Return what the files of an archive are together."""
    suffixes = set(walk_suffixes(members))
    found = "datasets" if any(member.name.rpartition("/")[2] == "state.json" for member in members) else ""
    if suffixes == {"npy"}:
        found = "npy"
    elif not found and len({SUFFIXES.get(suffix) for suffix in suffixes}) == 1:
        found = SUFFIXES.get(next(iter(suffixes)), "")
    if not found or file.format not in {"auto", found, *(["npz"] if found == "npy" else [])}:
        expected = (
            "files of one kind that can be read together (docs/data.md)" if file.format == "auto" else f"format {file.format}"
        )
        refuse_data("the archive holds no data that can be read", expected, f"files of kind {sorted(suffixes)[:20]}")
    if found == "npy":
        return _open_arrays(members, spool)
    chosen = _choose_saved(members, spool) if found == "datasets" else members
    kind = "arrow" if found == "datasets" else found
    tables = [OPEN[kind](member.find_region(spool), spool) for member in chosen]
    return ShardedTable(tables, [member.name for member in chosen])


def _choose_saved(members: list[Member], spool: Spool) -> list[Member]:
    """Return the Arrow files of a folder that datasets saved to disk, in the order of its `state.json`."""
    states = [member for member in members if member.name.rpartition("/")[2] == "state.json"]
    if len(states) > 1:
        splits = [state.name.removesuffix("state.json").strip("/") for state in states]
        advice = "name the folder of one split, such as --data FOLDER/test"
        refuse_data("the archive holds several splits", "one saved data set", str(splits)[:300], advice)
    folder = states[0].name.removesuffix("state.json")
    wanted = [folder + name for name in list_data_files(states[0].find_region(spool).read(MAX_STATE_BYTES))]
    by_name = {member.name: member for member in members}
    missing = [name for name in wanted if name not in by_name]
    if missing or not wanted:
        refuse_data("files of the saved data set are missing", "every file that state.json names", str(missing)[:300])
    return [by_name[name] for name in wanted]


def _open_arrays(members: list[Member], spool: Spool) -> Table:
    """Return one array per file, called like the file."""
    names = [member.name.rpartition("/")[2].removesuffix(".npy") for member in members]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataUnreadable(*(Fault("two arrays have one name", f"/data/{name}", "each name once", name) for name in twice))
    return ArrayTable({name: partial(_read_member, member, spool) for name, member in zip(names, members, strict=True)})


def _read_member(member: Member, spool: Spool) -> StoredRows:
    return read_npy(member.find_region(spool), spool)
