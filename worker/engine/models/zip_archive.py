"""Inspect the entries of a zip archive before anything of it is unpacked: names, sizes, places, ratios."""

import stat
import zipfile
from collections import Counter
from collections.abc import Iterator

from schemas.errors import Fault

MAX_ENTRIES = 200_000
MAX_INFLATED_BYTES = 256 * 2**20
"""Of all compressed entries (code and debug records) together."""
MAX_RATIO = 200


def check_entries(archive: zipfile.ZipFile, size_bytes: int) -> Iterator[Fault]:
    """Yield what is wrong with the names, sizes and places of the archive's entries."""
    entries = archive.infolist()
    if len(entries) > MAX_ENTRIES:
        yield Fault("the archive has too many entries", expected=f"at most {MAX_ENTRIES}", got=str(len(entries)))
        return
    for name in sorted(name for name, count in Counter(entry.orig_filename for entry in entries).items() if count > 1):
        yield Fault("an entry stands twice in the archive", where=repr(name), expected="each name once")
    if archive.comment or (entries and min(entry.header_offset for entry in entries) != 0):
        yield Fault("the archive has bytes before its first or after its last entry", expected="what PyTorch writes")
    inflated = sum(entry.file_size for entry in entries if entry.compress_type != zipfile.ZIP_STORED)
    if inflated > MAX_INFLATED_BYTES or sum(entry.compress_size for entry in entries) > size_bytes:
        yield Fault(
            "the archive unpacks to more than its size allows",
            expected=f"at most {MAX_INFLATED_BYTES} bytes",
            got=f"{inflated} bytes",
        )
    for entry in entries:
        yield from _check_entry(entry)


def _check_entry(entry: zipfile.ZipInfo) -> Iterator[Fault]:
    name = entry.orig_filename
    parts = name.split("/")
    if name.startswith("/") or not {"", ".", ".."}.isdisjoint(parts) or "\\" in name or ":" in name or not name.isprintable():
        yield Fault("an entry's name leads out of the archive", where=repr(name), expected="plain relative names")
    if stat.S_ISLNK(entry.external_attr >> 16):
        yield Fault("an entry is a symbolic link", where=repr(name), expected="plain files")
    if entry.flag_bits & 0x1 or entry.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        yield Fault("an entry is encrypted or packed in an unusual way", where=repr(name), expected="stored or deflated")
    if entry.compress_type == zipfile.ZIP_STORED and entry.file_size != entry.compress_size:
        yield Fault("an entry's sizes disagree", where=repr(name), got=f"{entry.compress_size} and {entry.file_size} bytes")
    if entry.file_size > MAX_RATIO * max(entry.compress_size, 1):
        ratio = entry.file_size // max(entry.compress_size, 1)
        yield Fault(
            "an entry is a compression bomb", where=repr(name), expected=f"a ratio of at most {MAX_RATIO}", got=str(ratio)
        )
