"""Folders of data become one file: a tar archive that is the same, byte for byte, wherever and whenever it is packed."""

import tarfile
import tempfile
from functools import cache
from pathlib import Path

from client.errors import BadUsage
from client.files import describe_unreadable
from schemas.errors import Fault

FILE_MODE = 0o644


def find_file(path: Path) -> Path:
    """Return the file itself, or for a folder the archive of its files, which is removed when this process ends.

    Raises:
        BadUsage: with every entry of the folder that is no plain file or cannot be read.

    """
    return pack_folder(path, Path(_make_folder().name)) if path.is_dir() else path


def pack_folder(folder: Path, target: Path) -> Path:
    """Pack the files below a folder, hidden ones left out, sorted by name and without times or owners.

    Args:
        folder: what to pack.
        target: the folder that the archive is written into.

    Returns:
        The archive.

    Raises:
        BadUsage: with every entry that is no plain file, or when a file cannot be read.

    """
    packed = target / f"{len(list(target.iterdir()))}.tar"
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir() or path.is_symlink())
    names = [name for name in names if not any(part.startswith(".") for part in name.split("/"))]
    advice = "Replace links by the files that they lead to."
    faults = [
        Fault("an entry of the folder is no plain file", str(folder / name), "files and folders", "a link or a device", advice)
        for name in names
        if (folder / name).is_symlink() or not (folder / name).is_file()
    ]
    if faults or not names:
        raise BadUsage(*faults or [Fault("the folder holds no files", str(folder), "files with data", "none", "Name another.")])
    try:
        with tarfile.open(packed, "w", format=tarfile.PAX_FORMAT) as archive:
            for name in names:
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = (folder / name).stat().st_size, FILE_MODE
                with (folder / name).open("rb") as file:
                    archive.addfile(entry, file)
    except OSError as error:
        raise BadUsage(describe_unreadable(folder, error)) from error
    return packed


@cache
def _make_folder() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="faultline-packed-")
