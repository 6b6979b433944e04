"""The files of a model: the model itself and its external data, beside it in a folder or together in one tar archive.

An archive is read where it lies: nothing is unpacked, so a model larger than the scratch space can be audited. Its members must
be plain files under plain names, one of them the model.
"""

import stat
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from schemas.errors import Fault, ModelRefused, ModelUnreadable

MAX_MEMBERS = 10_000
MODEL_SUFFIX = ".onnx"
TAR_MAGIC, TAR_MAGIC_OFFSET = b"ustar", 257


class Place(NamedTuple):
    """A part of a file."""

    path: Path
    offset: int
    size: int

    def read(self, offset: int, length: int) -> bytearray:
        """Return some of its bytes, in memory that is read into once."""
        content = bytearray(length)
        with self.path.open("rb") as file:
            file.seek(self.offset + offset)
            file.readinto(content)
        return content


class MissingFileError(Exception):
    """External data that must not or cannot be read: what is wrong with its location."""

    def __init__(self, what: str, expected: str) -> None:
        self.what, self.expected = what, expected
        super().__init__(what)


@dataclass(frozen=True)
class ModelFiles:
    """Where a model lies. members: the files of an archive by name, None for a model in a folder."""

    model: Place
    members: dict[str, Place] | None = field(default=None)

    def find(self, location: str) -> Place:
        """Return the place of external data.

        Raises:
            MissingFileError: the location is no plain name of a file beside the model, or leads through a link.
        """
        if location in {"", ".", ".."} or any(sign in location for sign in "/\\:\0"):
            what = "keeps its data outside the model's folder"
            raise MissingFileError(what, "a plain file name")
        if self.members is not None:
            if location not in self.members:
                what = "keeps its data in a file that is not in the archive"
                raise MissingFileError(what, f"one of {', '.join(sorted(self.members)[:10])}")
            return self.members[location]
        path = self.model.path.parent / location
        try:
            status = path.lstat()
        except OSError:
            what = "keeps its data in a file that is not there"
            raise MissingFileError(what, "a file beside the model") from None
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            what = "keeps its data behind a link"
            raise MissingFileError(what, "a regular file without links")
        return Place(path, 0, status.st_size)


def is_tar(path: Path) -> bool:
    """Tell whether a file is a tar archive."""
    with path.open("rb") as file:
        file.seek(TAR_MAGIC_OFFSET)
        return file.read(len(TAR_MAGIC)) == TAR_MAGIC


def find_files(path: Path) -> ModelFiles:
    """Return where the model and its external data lie.

    Args:
        path: an ONNX file with its external data beside it, or a tar archive of both.

    Returns:
        Their places; the external data of a folder is looked for when it is asked for.

    Raises:
        ModelUnreadable: a broken archive.
        ModelRefused: an archive with links, folders that hide files, names twice, or not exactly one model.
    """
    if not is_tar(path):
        return ModelFiles(Place(path, 0, path.stat().st_size))
    members = _read_members(path)
    models = [name for name in members if name.endswith(MODEL_SUFFIX)]
    if len(models) != 1:
        expected, got = f"one file that ends in {MODEL_SUFFIX}", ", ".join(models[:10]) or "none"
        raise ModelRefused(_describe("the archive does not hold one ONNX model", expected, got))
    return ModelFiles(members[models[0]], members)


def _read_members(path: Path) -> dict[str, Place]:
    members: dict[str, Place] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for entry in archive:
                name = entry.name.removeprefix("./")
                problem = _find_problem(entry, name, members)
                if problem:
                    raise ModelRefused(_describe("the archive holds more than a model and its data", problem, repr(name)))
                members[name] = Place(path, entry.offset_data, entry.size)
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise ModelUnreadable(_describe("the archive cannot be read", "an uncompressed tar archive", str(error))) from error
    size = path.stat().st_size
    if any(place.offset + place.size > size for place in members.values()):
        raise ModelUnreadable(_describe("the archive is cut off", "all bytes of its files", f"{size} bytes"))
    return members


def _find_problem(entry: tarfile.TarInfo, name: str, members: dict[str, Place]) -> str:
    """Return what an entry should be instead, nothing for a plain file under a plain new name."""
    if not entry.isreg() or entry.issparse():
        return "plain files, no folders, links or devices"
    if not name or any(sign in name for sign in "/\\:\0") or name in {".", ".."}:
        return "plain file names"
    if name in members:
        return "each name once"
    return f"at most {MAX_MEMBERS} files" if len(members) >= MAX_MEMBERS else ""


def _describe(what: str, expected: str, got: str) -> Fault:
    advice = "pack the folder that holds the model and its external data, or name that folder: faultline packs it"
    return Fault(what, "/model", expected, got, advice)
