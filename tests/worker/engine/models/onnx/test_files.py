"""Models in several files: external data beside the model, or in one archive with it."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from onnx.external_data_helper import set_external_data

from client.packing import pack_folder
from schemas.errors import AuditError, ModelRefused, ModelUnreadable
from tests.worker.engine.models.onnx.graphs import initializer, node, save
from worker.engine.models.load import load_program, measure_parity

GENERATOR = np.random.default_rng(2)
WEIGHTS = {
    name: GENERATOR.normal(size=shape).astype(np.float32) for name, shape in (("a", (6, 40)), ("b", (40,)), ("c", (40, 3)))
}


def write_model(folder: Path) -> Path:
    """Write a model whose tensors lie in two files, one of them at an offset."""
    nodes = [node("MatMul", ["x", "a"], ["h"]), node("Add", ["h", "b"], ["i"]), node("MatMul", ["i", "c"], ["y"])]
    folder.mkdir()
    path = save(folder, nodes, stored=[initializer(name, value) for name, value in WEIGHTS.items()])
    model = onnx.load(path)
    places = {"a": ("first.bin", 0), "b": ("second.bin", 0), "c": ("second.bin", 4096)}
    for tensor in model.graph.initializer:
        location, offset = places[tensor.name]
        content = tensor.raw_data
        with (folder / location).open("ab") as file:
            file.write(b"\0" * (offset - file.tell()) + content)
        set_external_data(tensor, location, offset, len(content))
        tensor.ClearField("raw_data")
    path.write_bytes(model.SerializeToString())
    return path


def _write_archive(folder: Path) -> Path:
    target = folder / "packed"
    target.mkdir()
    return pack_folder(write_model(folder / "model").parent, target)


@pytest.mark.parametrize("write", [lambda folder: write_model(folder / "model"), _write_archive], ids=["folder", "archive"])
def test_tensors_in_any_number_of_files_are_read_and_run_as_in_the_runtime(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    path = write(tmp_path)
    program = load_program(path)

    assert {name: value.tolist() for name, value in program.weights.items()} == {n: v.tolist() for n, v in WEIGHTS.items()}
    assert measure_parity(path, program, {"x": torch.randn(5, 6)}, 1) <= 1e-5


def _add(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> Callable[[tarfile.TarFile], None]:
    def add(archive: tarfile.TarFile) -> None:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname, entry.size = kind, link, len(content)
        archive.addfile(entry, io.BytesIO(content))

    return add


BAD: dict[str, tuple[Callable[[tarfile.TarFile], None], str]] = {
    "a symbolic link": (_add("evil", kind=tarfile.SYMTYPE, link="/etc/hostname"), "plain files"),
    "a hard link": (_add("evil", kind=tarfile.LNKTYPE, link="first.bin"), "plain files"),
    "a device": (_add("evil", kind=tarfile.CHRTYPE), "plain files"),
    "a folder": (_add("sub", kind=tarfile.DIRTYPE), "plain files"),
    "a path upwards": (_add("../first.bin", b"1"), "plain file names"),
    "an absolute path": (_add("/first.bin", b"1"), "plain file names"),
    "a path into a folder": (_add("sub/first.bin", b"1"), "plain file names"),
    "a name twice": (_add("first.bin", b"1"), "each name once"),
    "two models": (_add("second.onnx", b"1"), "one file that ends in .onnx"),
}


@pytest.mark.parametrize("case", BAD)
def test_archives_with_more_than_a_model_and_its_data_are_refused(tmp_path: Path, case: str) -> None:
    add, expected = BAD[case]
    path = _write_archive(tmp_path)
    with tarfile.open(path, "a") as archive:
        add(archive)

    with pytest.raises(ModelRefused) as caught:
        load_program(path)

    assert expected in caught.value.faults[0].expected


def test_an_archive_without_a_model_or_without_its_data_is_refused(tmp_path: Path) -> None:
    for name, kept in (("model.tar", ["first.bin"]), ("data.tar", ["model.onnx", "first.bin"])):
        folder = tmp_path / name.removesuffix(".tar")
        write_model(folder)
        path = tmp_path / name
        with tarfile.open(path, "w") as archive:
            for member in kept:
                archive.add(folder / member, member)
        with pytest.raises(ModelRefused) as caught:
            load_program(path)
        told = f"{caught.value.faults[0].what} {caught.value.faults[0].expected}"
        assert ("one ONNX model" if name == "model.tar" else "not in the archive") in told


def test_an_archive_that_is_cut_off_is_unreadable(tmp_path: Path) -> None:
    path = _write_archive(tmp_path)
    content = path.read_bytes()
    for length in (600, len(content) // 2):
        path.write_bytes(content[:length])
        with pytest.raises(AuditError):
            load_program(path)
    path.write_bytes(content[:512] + b"\xff" * 512)
    with pytest.raises((ModelUnreadable, ModelRefused)):
        load_program(path)


def test_external_data_is_in_memory_of_its_own(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model")
    program = load_program(path)
    before = program.weights["a"].clone()

    program.weights["a"].add_(1)

    stored = numpy_helper.to_array(onnx.load(path).graph.initializer[0])
    assert torch.equal(torch.from_numpy(stored.copy()), before)
