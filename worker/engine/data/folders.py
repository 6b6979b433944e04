"""Folders of data, as tar or zip archives: what their files are together."""

from collections import Counter
from functools import partial

from schemas.errors import DataUnreadable, Fault
from worker.engine.data.archives import Member, list_members, walk_suffixes
from worker.engine.data.arrow import ShardedTable, list_data_files
from worker.engine.data.files import DataFile
from worker.engine.data.formats import OPEN
from worker.engine.data.npy import ArrayTable, read_npy
from worker.engine.data.pictures import SUFFIXES as PICTURES
from worker.engine.data.regions import Region, refuse_data
from worker.engine.data.rows import StoredRows
from worker.engine.data.samples import PictureFolder, SampleTable
from worker.engine.data.spool import Spool
from worker.engine.data.tables import Table

MAX_STATE_BYTES = 2**24
SUFFIXES = {
    "npy": "npy",
    "parquet": "parquet",
    "arrow": "arrow",
    "feather": "arrow",
    "csv": "csv",
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "tar": "tar",
} | dict.fromkeys(PICTURES, "images")
"""What an archive is whose files all have such suffixes."""


def open_archive(region: Region, start: bytes, file: DataFile, spool: Spool) -> Table:
    """Return what the files of a tar or zip archive are together.

    Args:
        region: the archive.
        start: its first bytes.
        file: what is asked of it.
        spool: where compressed members are unpacked.

    Returns:
        Its columns.

    Raises:
        DataUnreadable: when it is damaged, hostile, or its files are nothing together.
    """
    members = list_members(region, start)
    found = _find_kind(members, file.format)
    if not found or file.format not in {"auto", found, *(["npz"] if found == "npy" else [])}:
        expected = "files that can be read together (docs/data.md)" if file.format == "auto" else f"format {file.format}"
        kinds = sorted(set(walk_suffixes(members)))[:20]
        refuse_data("the archive holds no data that can be read", expected, f"{found or 'files'}, of kinds {kinds}")
    if found == "npy":
        return _open_arrays(members, spool)
    if found == "images":
        return PictureFolder(members, file.classes)
    if found == "tar":
        return _open_samples(members, spool)
    chosen = _choose_saved(members, spool) if found == "datasets" else members
    opened = OPEN["arrow" if found == "datasets" else found]
    return ShardedTable([opened(member.find_region(spool), spool) for member in chosen], [member.name for member in chosen])


def _find_kind(members: list[Member], declared: str) -> str:
    """Return the format of a folder; "" where its files are nothing together."""
    if any(member.name.rpartition("/")[2] == "state.json" for member in members):
        return "datasets"
    kinds = {SUFFIXES.get(suffix, "") for suffix in walk_suffixes(members)}
    kind = kinds.pop() if len(kinds) == 1 else ""
    if kind not in {"", "images"}:
        return kind
    # Samples of several files: every name up to its first dot stands at least twice.
    counts = Counter(
        member.name.rpartition("/")[0] + "/" + member.name.rpartition("/")[2].partition(".")[0] for member in members
    )
    samples = (bool(counts) and min(counts.values()) > 1) or declared == "tar"
    return "tar" if samples and declared != "images" else kind


def _open_samples(members: list[Member], spool: Spool) -> Table:
    """Return the samples of an archive, or of the shards that it holds."""
    shards = [member for member in members if member.name.endswith(".tar")]
    if not shards:
        return SampleTable(members)
    tables = []
    for shard in shards:
        region = shard.find_region(spool)
        found = list_members(region, region.read(4))
        if not found:
            refuse_data("a shard holds no samples", "at least one", "none", where=f"/data/{shard.name}")
        tables.append(SampleTable(found))
    return ShardedTable(tables, [shard.name for shard in shards])


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
