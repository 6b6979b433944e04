"""Archives: the members of a tar or zip file, checked before any is read."""

import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

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
    """A plain file of an archive.

    packed_size: the bytes that it takes there. header: bytes from `offset` on to its content; None where a zip's local header
    says. deflated: the content is compressed. checksum: its CRC-32, in zip archives.
    """

    archive: Region
    name: str
    size: int
    packed_size: int
    offset: int
    header: int | None = 0
    deflated: bool = False
    checksum: int | None = None

    def find_region(self, spool: Spool) -> Region:
        """Return the content as a region, once it is checked; what is compressed is unpacked to scratch."""
        if self.deflated:
            return spool.write_file(self._walk(), self.name)
        if self.checksum is not None:
            for _ in self._walk():
                pass
        return self._find_packed()

    def read(self, most_bytes: int) -> bytes:
        """Return the content, once it is checked; DataUnreadable when it is larger than `most_bytes`."""
        if self.size > most_bytes:
            refuse_data("a member is too large", f"at most {most_bytes} bytes", f"{self.size} bytes", where=f"/data/{self.name}")
        return b"".join(self._walk())

    def _walk(self) -> Iterator[bytes]:
        """Yield the content in chunks; what it says of its size and checksum must be true."""
        inflater, size, checksum = zlib.decompressobj(-zlib.MAX_WBITS), 0, 0
        try:
            with self._find_packed().open() as file:
                while chunk := file.read(CHUNK_BYTES):
                    while chunk:
                        content = inflater.decompress(chunk, CHUNK_BYTES) if self.deflated else chunk
                        chunk = inflater.unconsumed_tail
                        size, checksum = size + len(content), zlib.crc32(content, checksum)
                        if size > self.size:
                            break
                        yield content
        except zlib.error as error:
            self._refuse(f"{error}")
        if size != self.size:
            self._refuse(f"another size than the {self.size} bytes that are stated")
        if self.checksum not in {None, checksum}:
            self._refuse(f"checksum {checksum:08x} instead of {self.checksum:08x}")

    def _find_packed(self) -> Region:
        skipped = self.header
        if skipped is None:
            header = self.archive.within(self.offset, LOCAL_HEADER_BYTES, self.name).read()
            if header[:4] != b"PK\x03\x04":
                self._refuse("no local header")
            # Name and extra field have lengths of their own there.
            skipped = LOCAL_HEADER_BYTES + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        return self.archive.within(self.offset + skipped, self.packed_size, self.name)

    def _refuse(self, got: str) -> NoReturn:
        refuse_data(
            f"member {self.name!r} of the archive is damaged", "what the archive says of it", got, where=f"/data/{self.name}"
        )


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
            region.within(entry.offset_data, entry.size, name)  # a member that is cut off is refused at once
            members.append(Member(region, name, entry.size, entry.size, entry.offset_data))
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
            members.append(_describe(region, entry))
    return members, faults


def _describe(region: Region, entry: zipfile.ZipInfo) -> Member:
    deflated = entry.compress_type == zipfile.ZIP_DEFLATED
    return Member(
        region, entry.orig_filename, entry.file_size, entry.compress_size, entry.header_offset, None, deflated, entry.CRC
    )


def walk_suffixes(members: list[Member]) -> Iterator[str]:
    """Yield the lower-case suffix of every member's name, without the dot; "" where there is none."""
    for member in members:
        yield member.name.rpartition("/")[2].rpartition(".")[2].lower() if "." in member.name.rpartition("/")[2] else ""
