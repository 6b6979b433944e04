"""Inspect a TorchScript archive without loading it: zip entries, pickles, source code.

A TorchScript file is a program. A scripted `__setstate__` runs while the file is loaded, `aten::save` writes and
`aten::from_file` reads any path, and TorchScript's unpickler trusts the sizes that a pickle states. So nothing is
handed to TorchScript before every entry of the archive has been read here, against allowlists.
"""

import re
import zipfile
import zlib
from itertools import islice
from pathlib import Path

from schemas.errors import Fault, ModelRefused, ModelUnreadable, UnsupportedOperator
from worker.engine.models.torchscript.pickles import check_pickle, read_claims
from worker.engine.models.torchscript.source import Source, check_sources
from worker.engine.models.zip_archive import check_entries

MAX_PICKLE_BYTES = 256 * 2**20
QUANTISED = re.compile(r"classes\.quantized|_rebuild_qtensor|QU?Int\d+Storage|per_\w+_affine")
"""What pickles and code of a quantised module name."""

EXPORT_ADVICE = "export the model with torch.jit.trace or torch.jit.script and save it with torch.jit.save, or export it to ONNX"


def scan_archive(path: Path) -> str:
    """Check that a file is a TorchScript archive which does nothing when it is loaded.

    Args:
        path: the file.

    Returns:
        The version of the archive's format, by which the file tells who wrote it.

    Raises:
        ModelUnreadable: if it is no zip archive, or a damaged one.
        ModelRefused: if it is a pickled checkpoint, carries code that runs on loading or touches files, or is built to
            mislead or exhaust its reader.
        UnsupportedOperator: if its code mentions operators outside the allowlist.
    """
    check_magic(path)
    try:
        with zipfile.ZipFile(path) as archive:
            faults = list(check_entries(archive, path.stat().st_size))
            if faults:
                raise ModelRefused(*faults)
            check_layout(archive, path.name)
            check_contents(archive)
            return read_version(archive)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError, RuntimeError, ValueError) as error:
        raise ModelUnreadable(
            Fault(
                "the archive is damaged",
                where=path.name,
                expected="a zip archive",
                got=str(error),
                advice="upload the file again",
            )
        ) from error


def check_magic(path: Path) -> None:
    """Refuse files that are no zip archive, with the reason.

    Raises:
        ModelRefused: if the file is a bare pickle.
        ModelUnreadable: if it is anything else.
    """
    with path.open("rb") as file:
        start = file.read(8)
    if start[:1] == b"\x80" and start[1:2] in {b"\x02", b"\x03", b"\x04", b"\x05"}:
        raise ModelRefused(describe_checkpoint(path.name))
    if start[:4] != b"PK\x03\x04":
        raise ModelUnreadable(
            Fault(
                "the file is not a TorchScript archive",
                where=path.name,
                expected="a zip archive",
                got=f"{len(start)} bytes {start.hex()}" if start else "an empty file",
                advice=EXPORT_ADVICE,
            )
        )


def describe_checkpoint(name: str) -> Fault:
    """Return the fault of a file that torch.save wrote."""
    return Fault(
        "the file is a pickled checkpoint (torch.save), which has no graph and runs code when it is opened",
        where=name,
        expected="a TorchScript archive with code/ and constants.pkl",
        got="a pickled module or state_dict",
        advice=EXPORT_ADVICE,
    )


def check_layout(archive: zipfile.ZipFile, name: str) -> None:
    """Check that the archive is laid out as torch.jit.save does it, under one folder.

    Raises:
        ModelUnreadable: if it is some other zip archive.
        ModelRefused: if it is a checkpoint or a torch.export archive.
    """
    names = archive.namelist()
    roots = {entry.partition("/")[0] for entry in names}
    inside = {entry.partition("/")[2] for entry in names}
    if len(roots) == 1 and "data.pkl" in inside and not any(entry.startswith("code/") for entry in inside):
        raise ModelRefused(describe_checkpoint(name))
    if len(roots) == 1 and ("archive_format" in inside or any(entry.startswith("models/") for entry in inside)):
        raise ModelRefused(
            Fault(
                "the file is a torch.export archive",
                where=name,
                expected="TorchScript",
                got="pt2",
                advice="leave model.format at auto",
            )
        )
    missing = {"data.pkl", "constants.pkl"} - inside
    if len(roots) != 1 or missing:
        raise ModelUnreadable(
            Fault(
                "the zip archive is not a TorchScript file",
                where=name,
                expected="one folder with data.pkl, constants.pkl and code/",
                got=f"{len(names)} entries in {len(roots)} folders, without {', '.join(sorted(missing)) or 'nothing'}",
                advice=EXPORT_ADVICE,
            )
        )


def read_version(archive: zipfile.ZipFile) -> str:
    """Return the archive's format version, or `unknown` where it is not a plain number."""
    for entry in archive.infolist():
        if entry.filename.partition("/")[2] in {"version", ".data/version"} and entry.file_size <= 8:
            text = archive.read(entry).decode("ascii", "replace").strip()
            return text if text.isdecimal() else "unknown"
    return "unknown"


def describe_quantised(sign: Fault) -> Fault:
    """Return the fault of a quantised module, which the faults of its classes and pickles follow from."""
    return Fault(
        "the module is quantised: its weights are packed objects of PyTorch's quantized operators, not tensors",
        where=sign.where,
        expected="dense float or integer tensors",
        got=sign.got or sign.what,
        advice="audit the model before quantisation, or export the quantised one by PT2E to .pt2, or to ONNX in QDQ form",
    )


def check_contents(archive: zipfile.ZipFile) -> None:
    """Read every pickle and every source file of the archive.

    Raises:
        ModelRefused: with everything that is wrong with them.
        UnsupportedOperator: if only operators outside the allowlist are.
    """
    sizes = {entry.filename.partition("/")[2]: entry.file_size for entry in archive.infolist()}
    refused: list[Fault] = []
    sources: list[Source] = []
    for entry in archive.infolist():
        place = entry.filename.partition("/")[2]
        if place.endswith("pkl"):
            if entry.file_size > MAX_PICKLE_BYTES:
                refused.append(Fault("a pickle is too large", where=place, expected=f"at most {MAX_PICKLE_BYTES} bytes"))
                continue
            content = archive.read(entry)
            found = list(check_pickle(place, content))
            refused += found
            if not found and place in {"data.pkl", "constants.pkl"}:
                refused += read_claims(place, content, sizes)
        elif place.startswith("code/"):
            if not place.endswith(".py"):
                refused.append(Fault("code/ holds something that is no source file", where=place, expected="*.py"))
                continue
            sources.append(Source(place, archive.read(entry).decode()))
    unsupported: list[Fault] = []
    for error in check_sources(sources):
        (unsupported if isinstance(error, UnsupportedOperator) else refused).extend(error.faults)
    if refused:
        quantised = (fault for fault in refused if QUANTISED.search(f"{fault.what} {fault.got}"))
        raise ModelRefused(*map(describe_quantised, islice(quantised, 1)), *refused)
    if unsupported:
        raise UnsupportedOperator(*unsupported)
