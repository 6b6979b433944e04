"""Archives: the members of a tar or zip file, checked before any is read."""

import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from schemas.errors import DataUnreadable, Fault
from worker.engine.data.regions import Region, refuse_data
from worker.engine.data.spool import CHUNK_BYTES, Spool

MAX_MEMBERS = 1_000_000
SHOWN_FAULTS = 50
LOCAL_HEADER_BYTES = 30
ARCHIVE_ADVICE = "name the folder itself (`faultline audit --data FOLDER` packs it), or pack it with tar or zip"
DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError, OSError, ValueError)


@dataclass(frozen=True)
class Member:
    """A plain file of an archive. find: checks its bytes and returns them as a region, unpacked to scratch when compressed."""

    name: str
    size: int
    find_region: Callable[[Spool], Region]


def list_members(region: Region, start: bytes) -> list[Member]:
    """Return the files of a tar or zip archive, in order of their names.

    Args:
        region: the archive.
        start: its first bytes, by which the kind is told.

    Returns:
        The files; hidden ones and folders are left out.

    Raises:
        DataUnreadable: when the archive is damaged or holds links, devices, names that lead out of it, or a name twice.
    """
    try:
        members, faults = (_list_zip if start[:2] == b"PK" else _list_tar)(region)
    except DAMAGED as error:
        refuse_data("the archive is damaged", "a tar or zip archive", f"{type(error).__name__}: {error}")
    seen: set[str] = set()
    for member in members:
        if member.name in seen:
            faults.append(Fault("a member stands twice in the archive", f"/data/{member.name}", "each name once"))
        seen.add(member.name)
        if not is_plain_name(member.name):
            faults.append(Fault("a member's name leads out of the archive", "/data", "plain relative names", repr(member.name)))
    if faults:
        raise DataUnreadable(*faults[:SHOWN_FAULTS])
    return sorted((member for member in members if not _is_hidden(member.name)), key=lambda member: member.name)


def is_plain_name(name: str) -> bool:
    """Tell whether a member's name stays inside its archive on every system."""
    parts = name.split("/")
    return {"", ".", ".."}.isdisjoint(parts) and "\\" not in name and ":" not in name and name.isprintable()


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def _list_tar(region: Region) -> tuple[list[Member], list[Fault]]:
    members: list[Member] = []
    faults: list[Fault] = []
    with region.open() as file, tarfile.open(fileobj=file, mode="r:") as archive:
        for entry in archive:
            archive.members = []  # type: ignore[attr-defined]  # else every entry is kept, a kilobyte each
            if len(members) >= MAX_MEMBERS:
                refuse_data("the archive has too many members", f"at most {MAX_MEMBERS}", "more")
            name = entry.name.removeprefix("./")
            if entry.isdir():
                continue
            if not entry.isreg() or entry.issparse():
                faults.append(Fault("a member is no plain file", f"/data/{name}", "files and folders, no links", ARCHIVE_ADVICE))
                continue
            found = region.within(entry.offset_data, entry.size, name)
            members.append(Member(name, entry.size, partial(_keep, found)))
    return members, faults


def _list_zip(region: Region) -> tuple[list[Member], list[Fault]]:
    with region.open() as file, zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
    if len(entries) > MAX_MEMBERS:
        refuse_data("the archive has too many members", f"at most {MAX_MEMBERS}", str(len(entries)))
    members: list[Member] = []
    faults: list[Fault] = []
    for entry in entries:
        where = f"/data/{entry.orig_filename}"
        if entry.orig_filename.endswith("/"):
            continue
        if stat.S_ISLNK(entry.external_attr >> 16):
            faults.append(Fault("a member is a link", where, "files and folders, no links", "a link", ARCHIVE_ADVICE))
        elif entry.flag_bits & 0x1 or entry.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            faults.append(Fault("a member is encrypted or packed in an unusual way", where, "stored or deflated"))
        elif entry.compress_type == zipfile.ZIP_STORED and entry.file_size != entry.compress_size:
            faults.append(Fault("a member's sizes disagree", where, f"{entry.compress_size} bytes", f"{entry.file_size} bytes"))
        else:
            members.append(_open_entry(region, entry))
    return members, faults


def _keep(region: Region, spool: Spool) -> Region:
    return region


def _open_entry(region: Region, entry: zipfile.ZipInfo) -> Member:
    stored = entry.compress_type == zipfile.ZIP_STORED
    find = partial(_check_stored, _find_stored(region, entry), entry.CRC) if stored else partial(_unpack, region, entry)
    return Member(entry.orig_filename, entry.file_size, find)


def _find_stored(region: Region, entry: zipfile.ZipInfo) -> Region:
    """Return where an uncompressed entry's bytes are: behind its local header, which has name and extra field of its own."""
    header = region.within(entry.header_offset, LOCAL_HEADER_BYTES, entry.orig_filename).read()
    if header[:4] != b"PK\x03\x04":
        refuse_data(f"member {entry.orig_filename!r} is damaged", "a local header", header[:4].hex())
    skipped = LOCAL_HEADER_BYTES + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    return region.within(entry.header_offset + skipped, entry.file_size, entry.orig_filename)


def _check_stored(region: Region, expected: int, spool: Spool) -> Region:
    checksum = 0
    with region.open() as file:
        while chunk := file.read(CHUNK_BYTES):
            checksum = zlib.crc32(chunk, checksum)
    if checksum != expected:
        refuse_data(f"member {region.name!r} is damaged", f"checksum {expected:08x}", f"{checksum:08x}")
    return region


def _unpack(region: Region, entry: zipfile.ZipInfo, spool: Spool) -> Region:
    name = entry.orig_filename
    try:
        with region.open() as file, zipfile.ZipFile(file) as archive, archive.open(entry) as packed:
            found = spool.copy(packed, entry.file_size, name)
    except DAMAGED as error:
        refuse_data(f"member {name!r} is damaged", got=f"{type(error).__name__}: {error}")
    if found.size != entry.file_size:
        refuse_data(f"member {name!r} is damaged", f"{entry.file_size} bytes", f"{found.size} bytes")
    return found


def walk_suffixes(members: list[Member]) -> Iterator[str]:
    """Yield the lower-case suffix of every member's name, without the dot; "" where there is none."""
    for member in members:
        yield member.name.rpartition("/")[2].rpartition(".")[2].lower() if "." in member.name.rpartition("/")[2] else ""
