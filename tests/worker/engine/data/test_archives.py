"""Archives that mislead, exhaust or damage their reader are refused before anything is read."""

import io
import os
import resource
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from schemas.errors import DataUnreadable, Fault, ScratchLimit
from tests.worker.engine.data.writers import encode_npy, write_tar, write_zip
from worker.engine.data.files import DataFile, Wanted
from worker.engine.data.reading import load_data

X, Y = encode_npy(np.ones((3, 2), np.float32)), encode_npy(np.arange(3))
WANTED = Wanted({"x": torch.float32})


def refuse(path: Path) -> tuple[Fault, ...]:
    before = sorted(path.parent.rglob("*"))
    with pytest.raises(DataUnreadable) as caught:
        load_data(DataFile(path, scratch=path.parent), WANTED)
    assert sorted(path.parent.rglob("*")) == before
    return caught.value.faults


def tar_with(kind: bytes, link: str = "") -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        write_tar(path, {"labels.npy": Y})
        with tarfile.open(path, "a") as archive:
            entry = tarfile.TarInfo("x.npy")
            entry.type, entry.linkname = kind, link
            archive.addfile(entry)
        return path

    return write


def zip_link(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        entry = zipfile.ZipInfo("x.npy")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, "labels.npy")
        archive.writestr("labels.npy", Y)
    return path


def twice(path: Path) -> Path:
    write_tar(path, {"x.npy": X, "labels.npy": Y})
    with tarfile.open(path, "a") as archive:
        entry = tarfile.TarInfo("x.npy")
        entry.size = len(X)
        archive.addfile(entry, io.BytesIO(X))
    return path


def damaged(path: Path) -> Path:
    content = bytearray(write_zip(path, {"x.npy": X, "labels.npy": Y}, zipfile.ZIP_STORED).read_bytes())
    content[content.index(X) + len(X) - 1] ^= 1
    path.write_bytes(content)
    return path


CASES: dict[str, Callable[[Path], Path]] = {
    "absolute": lambda path: write_tar(path, {"/x.npy": X, "labels.npy": Y}),
    "parent": lambda path: write_tar(path, {"../x.npy": X, "labels.npy": Y}),
    "parent in zip": lambda path: write_zip(path, {"../x.npy": X, "labels.npy": Y}),
    "backslash": lambda path: write_zip(path, {"a\\..\\x.npy": X, "labels.npy": Y}),
    "symbolic link": tar_with(tarfile.SYMTYPE, "labels.npy"),
    "hard link": tar_with(tarfile.LNKTYPE, "labels.npy"),
    "device": tar_with(tarfile.CHRTYPE),
    "pipe": tar_with(tarfile.FIFOTYPE),
    "link in zip": zip_link,
    "twice": twice,
    "flipped bit": damaged,
    "unusual packing": lambda path: write_zip(path, {"x.npy": X, "labels.npy": Y}, zipfile.ZIP_LZMA),
    "one name in two folders": lambda path: write_tar(path, {"a/x.npy": X, "b/x.npy": X, "labels.npy": Y}),
    "other files": lambda path: write_tar(path, {"x.npy": X, "notes.txt": b"a"}),
    "no array inside": lambda path: write_tar(path, {"x.npy": b"a", "labels.npy": b"b"}),
    "fewer bytes than the shape": lambda path: write_tar(path, {"x.npy": X[:-4], "labels.npy": Y}),
    "empty": lambda path: write_tar(path, {}),
}


@pytest.mark.parametrize("name", CASES)
def test_hostile_and_broken_archives_are_refused(name: str, tmp_path: Path) -> None:
    path = CASES[name](tmp_path / "data")
    assert all(fault.what and fault.where and (fault.expected or fault.advice) for fault in refuse(path))


@pytest.mark.parametrize("write", [write_tar, write_zip])
def test_truncated_archives_are_refused(write: Callable[[Path, dict[str, bytes]], Path], tmp_path: Path) -> None:
    noise = np.random.default_rng(0).standard_normal((500, 2))
    path = write(tmp_path / "data", {"x.npy": encode_npy(noise), "labels.npy": encode_npy(np.arange(500))})
    os.truncate(path, 3000)
    assert refuse(path)


def test_faults_of_several_arrays_are_told_together(tmp_path: Path) -> None:
    faults = refuse(write_tar(tmp_path / "data", {"x.npy": b"a", "labels.npy": b"b"}))
    assert [fault.where for fault in faults] == ["/data/x.npy", "/data/labels.npy"]


def test_hidden_files_are_left_out(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "data", {"x.npy": X, "labels.npy": Y, ".DS_Store": b"a", "__MACOSX/x.npy": b"b", "a/.x/y": b""})
    assert len(load_data(DataFile(path), WANTED)) == 3


def test_an_array_that_unpacks_to_more_than_the_scratch_space_is_stopped(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, x=np.zeros((5000, 1000), np.float32), labels=np.arange(5000))
    assert path.stat().st_size < 200_000
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000_000, hard))
    try:
        with pytest.raises(ScratchLimit) as caught:
            load_data(DataFile(path, scratch=tmp_path), WANTED)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "FAULTLINE_JOB_SCRATCH_BYTES" in caught.value.faults[0].advice
    assert sum(file.stat().st_size for file in tmp_path.glob("rows-*")) <= 10_000_000
