"""Scan a torch.export archive and find its parts, before any of them is read.

What PyTorch's own reader would unpickle (sample inputs, tensor subclasses, custom objects) is never opened here.
"""

import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.errors import Fault, ModelRefused, ModelUnreadable
from worker.engine.models.pt2.reading import MAX_JSON_BYTES, parse_json
from worker.engine.models.zip_archive import check_entries

ARCHIVE_VERSION = "0"
SAVE_AGAIN = "load and save the model again with torch.export of PyTorch 2.9 or newer"
FOREIGN_PARTS = {
    "data/aotinductor/": "compiled code (AOTInductor)",
    "data/executorch/": "an ExecuTorch program",
    "data/mtia": "compiled code (MTIA)",
}


@dataclass(frozen=True)
class Archive:
    """An open archive. entries: by their place below the archive's one folder. model: the name of the model."""

    file: zipfile.ZipFile
    entries: dict[str, zipfile.ZipInfo]
    model: str

    def read_json(self, place: str) -> Any:
        """Return what a JSON entry holds.

        Args:
            place: its name below the archive's folder.

        Raises:
            ModelUnreadable: if it is missing or damaged.
            ModelRefused: if it is too long.
        """
        if place not in self.entries:
            what = "the archive lacks a part"
            raise ModelUnreadable(Fault(what, place, "what torch.export.save writes", "no such entry", SAVE_AGAIN))
        entry = self.entries[place]
        if entry.file_size > MAX_JSON_BYTES:
            got = f"{entry.file_size} bytes"
            raise ModelRefused(Fault("the graph is too long", place, f"at most {MAX_JSON_BYTES} bytes of JSON", got))
        return parse_json(self.file.read(entry), place)


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Scan an archive, then hand it out for reading.

    Args:
        path: the file.

    Yields:
        The archive, open.

    Raises:
        ModelUnreadable: if it is damaged, or another kind of zip archive.
        ModelRefused: if it is built to mislead its reader, of an unknown version, or holds no single readable graph.
    """
    try:
        with zipfile.ZipFile(path) as file:
            faults = [*check_entries(file, path.stat().st_size), *_check_cases(file)]
            if faults:
                raise ModelRefused(*faults)
            yield _find_parts(file, path.name)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError) as error:
        advice = "upload the file again"
        raise ModelUnreadable(Fault("the archive is damaged", path.name, "a zip archive", str(error), advice)) from error


def is_export_archive(path: Path) -> bool:
    """Tell a torch.export archive from other zip archives by the names of its entries."""
    try:
        with zipfile.ZipFile(path) as file:
            names = [entry.partition("/")[2] or entry for entry in file.namelist()]
    except (zipfile.BadZipFile, OSError):
        return False
    return any(name in {"archive_format", "serialized_exported_program.json"} or name.startswith("models/") for name in names)


def _check_cases(file: zipfile.ZipFile) -> Iterator[Fault]:
    counts = Counter(name.casefold() for name in set(file.namelist()))
    for name in sorted(name for name, count in counts.items() if count > 1):
        yield Fault("entries differ in upper and lower case only", where=repr(name), expected="each name once")


def _find_parts(file: zipfile.ZipFile, name: str) -> Archive:
    if "serialized_exported_program.json" in file.namelist():
        what = "the file has the layout of PyTorch 2.7 and older, whose weights are pickles"
        raise ModelRefused(Fault(what, name, "a PT2 archive", "serialized_state_dict.pt", SAVE_AGAIN))
    roots = {entry.partition("/")[0] for entry in file.namelist()}
    entries = {entry.filename.partition("/")[2]: entry for entry in file.infolist()}
    if len(roots) != 1 or _read_short(file, entries, "archive_format") != "pt2":
        expected = "one folder with archive_format, models/ and data/"
        got = f"{len(entries)} entries in {len(roots)} folders"
        raise ModelUnreadable(Fault("the zip archive is not a torch.export file", name, expected, got, SAVE_AGAIN))
    faults = list(_check_versions(file, entries))
    models = sorted(found[1] for entry in entries if (found := re.fullmatch(r"models/([\w.-]+)\.json", entry)))
    foreign = [what for start, what in FOREIGN_PARTS.items() if any(entry.startswith(start) for entry in entries)]
    if len(models) != 1:
        got = f"models {', '.join(models)}" if models else ", ".join(foreign) or "no model"
        advice = "save one exported program with torch.export.save"
        faults.append(Fault("the archive does not hold one exported program", name, "one models/*.json", got, advice))
    faults += [
        Fault("the weights are pickled", place, "raw tensors beside a JSON table", "a pickle", SAVE_AGAIN)
        for place in (f"data/{part}/{model}.pt" for part in ("weights", "constants") for model in models)
        if place in entries
    ]
    if faults:
        raise ModelRefused(*faults)
    return Archive(file, entries, models[0])


def _check_versions(file: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo]) -> Iterator[Fault]:
    for place, expected in (("archive_version", ARCHIVE_VERSION), ("byteorder", "little")):
        got = _read_short(file, entries, place)
        if got != expected and (got or place == "archive_version"):
            yield Fault(f"the archive has an unknown {place}", place, expected, got or "none", SAVE_AGAIN)


def _read_short(file: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo], place: str) -> str:
    """Return a text of a few characters; an empty one where there is none."""
    if place not in entries or entries[place].file_size > 16:
        return ""
    return file.read(entries[place]).decode("ascii", "replace").strip()
