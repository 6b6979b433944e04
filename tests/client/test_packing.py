"""Folders of data are packed into the same bytes wherever they lie and whenever they were written."""

import os
import tarfile
from pathlib import Path

import pytest

from client.errors import BadUsage
from client.options import AuditOptions, prepare_audit
from client.packing import find_file, pack_folder
from schemas.base import compute_sha256


def make_folder(path: Path, names: list[str], time: int) -> Path:
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(name.encode() * 100)
        (path / name).chmod(0o600 if time else 0o644)
        os.utime(path / name, (time, time))
    return path


def test_the_archive_depends_on_names_and_contents_only(tmp_path: Path) -> None:
    names = ["b.npy", "a/é.npy", "a/" + "long" * 40 + ".npy"]
    first, second = make_folder(tmp_path / "one", names, 0), make_folder(tmp_path / "other", names[::-1], 1_000_000_000)
    (second / ".hidden").write_bytes(b"left out")
    contents = []
    for folder in (first, second):
        target = tmp_path / f"{folder.name}-packed"
        target.mkdir()
        contents.append(pack_folder(folder, target).read_bytes())
    assert contents[0] == contents[1]
    with tarfile.open(tmp_path / "one-packed/0.tar") as archive:
        assert archive.getnames() == sorted(names)
        assert archive.extractfile("b.npy").read() == b"b.npy" * 100  # type: ignore[union-attr]


def test_links_and_empty_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    folder = make_folder(tmp_path / "links", ["a"], 0)
    (folder / "b").symlink_to("a")
    (folder / "c").symlink_to(tmp_path)
    for path, count in ((tmp_path / "empty", 1), (folder, 2)):
        with pytest.raises(BadUsage) as caught:
            find_file(path)
        assert len(caught.value.faults) == count


def test_a_folder_is_named_by_the_digest_of_its_archive(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "data", ["x.npy", "labels.npy"], 0)
    (tmp_path / "model.onnx").write_bytes(b"model")
    prepared = prepare_audit(
        AuditOptions(model=str(tmp_path / "model.onnx"), data=str(folder), inputs=("x=a,b", "m=p*"), classes="u,v")
    )
    digest = prepared.request.data.uri.rpartition(":")[2]
    assert compute_sha256(prepared.uploads[digest].read_bytes()) == digest
    assert prepared.request.data.inputs == {"x": ("a", "b"), "m": "p*"}
    assert prepared.request.data.classes == ("u", "v")
