"""Take a TorchScript archive apart and put it together again with something wrong in it."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

Entries = dict[str, bytes]


def read_entries(path: Path) -> Entries:
    """Return the archive's entries in order."""
    with zipfile.ZipFile(path) as archive:
        return {entry.filename: archive.read(entry) for entry in archive.infolist()}


def write_entries(path: Path, entries: Entries) -> Path:
    """Write entries uncompressed."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def edit(path: Path, change: Callable[[Entries], None]) -> Path:
    """Change the entries of an archive in place."""
    entries = read_entries(path)
    change(entries)
    return write_entries(path, entries)


def find_name(entries: Entries, ending: str) -> str:
    """Return the entry that ends so."""
    return next(name for name in entries if name.endswith(ending))


def replace_text(ending: str, old: str, new: str) -> Callable[[Entries], None]:
    """Return a change that replaces text in one entry, which must hold it."""

    def change(entries: Entries) -> None:
        name = find_name(entries, ending)
        text = entries[name].decode()
        assert old in text
        entries[name] = text.replace(old, new).encode()

    return change


def replace_entry(ending: str, content: bytes) -> Callable[[Entries], None]:
    """Return a change that puts other bytes into one entry."""

    def change(entries: Entries) -> None:
        entries[find_name(entries, ending)] = content

    return change


def zip_bytes(write: Callable[[zipfile.ZipFile], None]) -> bytes:
    """Return an archive made by hand."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        write(archive)
    return buffer.getvalue()
