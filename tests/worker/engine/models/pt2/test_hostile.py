"""Archives that are built to act when they are read, or to mislead their reader: refused by type, and nothing happens."""

import pickle
import stat
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from schemas.errors import AuditError, ModelRefused, ModelUnreadable
from tests.worker.engine.models.pt2.tampering import Evil, Plain, check_refused
from tests.worker.engine.models.torchscript.archives import Entries, find_name, write_entries
from worker.engine.models.load import find_format, load_program
from worker.engine.models.pt2 import load_pt2, run_reference


def test_the_plain_file_is_read(entries: Entries, folder: Path) -> None:
    path = write_entries(folder / "model.pt2", entries)
    x = torch.randn(5, 3)
    assert torch.equal(load_pt2(path).forward({}, {"x": x})["output"], Plain()(x))
    assert torch.equal(run_reference(path, {"x": x}, 1)["output"], Plain()(x))
    assert find_format(path) == "pt2"


def test_pickles_that_no_forward_needs_are_never_opened(entries: Entries, folder: Path) -> None:
    samples = find_name(entries, "data/sample_inputs/model.pt")
    root = samples.partition("/")[0]
    hostile = {
        samples: pickle.dumps(Evil()),
        f"{root}/data/constants/opaque_obj_0": pickle.dumps(Evil()),
        f"{root}/extra/a": b"x",
    }
    path = write_entries(folder / "model.pt2", {**entries, **hostile})
    x = torch.randn(5, 3)
    assert torch.equal(run_reference(path, {"x": x}, 1)["output"], load_pt2(path).forward({}, {"x": x})["output"])
    assert [entry.name for entry in folder.iterdir()] == ["model.pt2"]


def _replace(ending: str, content: bytes) -> Callable[[Entries], None]:
    def change(entries: Entries) -> None:
        entries[find_name(entries, ending)] = content

    return change


def _rename(ending: str, name: str) -> Callable[[Entries], None]:
    def change(entries: Entries) -> None:
        found = find_name(entries, ending)
        entries[found.removesuffix(ending) + name] = entries.pop(found)

    return change


def _add(name: str, content: bytes = b"x") -> Callable[[Entries], None]:
    def change(entries: Entries) -> None:
        entries[f"{next(iter(entries)).partition('/')[0]}/{name}"] = content

    return change


LAYOUTS: dict[str, Callable[[Entries], None]] = {
    "no graph": _rename("models/model.json", "data/other.json"),
    "two graphs": _add("models/second.json", b"{}"),
    "compiled code only": _rename("models/model.json", "data/aotinductor/model/a.so"),
    "pickled weights": _add("data/weights/model.pt", pickle.dumps(Evil())),
    "pickled constants": _add("data/constants/model.pt", pickle.dumps(Evil())),
    "no table of weights": _rename("model_weights_config.json", "other.json"),
    "another version": _replace("archive_version", b"1"),
    "a version of many bytes": _replace("archive_version", b"0" * 1000),
    "the other byte order": _replace("byteorder", b"big"),
    "another format": _replace("archive_format", b"zip"),
    "a graph that is no JSON": _replace("models/model.json", b"\x80\x02cos\nsystem\n."),
    "a graph that is a number": _replace("models/model.json", b"1"),
    "JSON a hundred thousand levels deep": _replace("models/model.json", b"[" * 100_000 + b"]" * 100_000),
    "a key twice": _replace("models/model.json", b'{"graph_module": 1, "graph_module": 2}'),
    "numbers of many digits": _replace("models/model.json", b'{"a": ' + b"9" * 10_000 + b"}"),
    "numbers that are none": _replace("models/model.json", b'{"a": NaN}'),
    "entries that differ in case": _add("Archive_Format"),
    "a parent folder": _add("../../written"),
    "backslashes": _add("..\\written"),
}


@pytest.mark.parametrize("change", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_archives_of_another_layout_are_refused(change: Callable[[Entries], None], entries: Entries, folder: Path) -> None:
    changed = dict(entries)
    change(changed)
    check_refused(write_entries(folder / "model.pt2", changed), ModelRefused, ModelUnreadable)


def _with_link(archive: zipfile.ZipFile) -> None:
    entry = zipfile.ZipInfo("model/data/weights/weight_9")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive.writestr(entry, "/etc/passwd")


def _with_twin(archive: zipfile.ZipFile) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr(archive.namelist()[0], b"x")


def _with_bomb(archive: zipfile.ZipFile) -> None:
    archive.writestr("model/extra/bomb", bytes(20_000_000), zipfile.ZIP_DEFLATED)


def _with_absolute_path(archive: zipfile.ZipFile) -> None:
    archive.writestr("/written", b"x")


def _with_comment(archive: zipfile.ZipFile) -> None:
    archive.comment = b"PK\x05\x06" + bytes(18)


@pytest.mark.parametrize("change", [_with_link, _with_twin, _with_bomb, _with_absolute_path, _with_comment])
def test_entries_built_to_mislead_are_refused(change: Callable[[zipfile.ZipFile], None], entries: Entries, folder: Path) -> None:
    path = write_entries(folder / "model.pt2", entries)
    with zipfile.ZipFile(path, "a") as archive:
        change(archive)
    check_refused(path, ModelRefused, ModelUnreadable)


def test_the_layout_of_older_versions_is_refused_with_advice(folder: Path) -> None:
    older = {"version": b"8.2", "serialized_exported_program.json": b"{}", "serialized_state_dict.pt": pickle.dumps(Evil())}
    path = write_entries(folder / "model.pt2", older)
    assert find_format(path) == "pt2"
    assert "torch.export" in check_refused(path, ModelRefused).faults[0].advice


def test_truncated_files_are_refused(entries: Entries, folder: Path) -> None:
    path = write_entries(folder / "model.pt2", entries)
    content = path.read_bytes()
    for length in (5, 100, len(content) // 3, len(content) // 2, len(content) - 30, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises((ModelUnreadable, ModelRefused)):
            load_program(path, "pt2")


def test_damaged_files_load_or_give_a_typed_error(entries: Entries, folder: Path) -> None:
    path = write_entries(folder / "model.pt2", entries)
    content = path.read_bytes()
    generator = torch.Generator().manual_seed(0)
    refused = 0
    for _ in range(150):
        at, value = (int(torch.randint(limit, (), generator=generator)) for limit in (len(content), 256))
        path.write_bytes(content[:at] + bytes([value]) + content[at + 1 :])
        try:
            load_pt2(path)
        except AuditError:
            refused += 1
    assert 0 < refused < 150
