"""Reading `.npz` data: what fits is read, what does not is explained completely, and nothing is unpickled."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from schemas.errors import DataMismatch, DataUnreadable
from worker.engine.data.dataset import Dataset
from worker.engine.data.files import DataFile, Wanted
from worker.engine.data.reading import load_data


def load_npz(path: Path, columns: dict[str, str], target: str, inputs: list[str]) -> Dataset:
    return load_data(DataFile(path, tuple(columns.items()), target), Wanted(dict.fromkeys(inputs)))


def write(path: Path, **arrays: object) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def test_one_input_is_found_by_its_name_or_as_inputs_or_as_the_only_other_array(tmp_path: Path) -> None:
    x, y = np.ones((3, 2), np.float32), np.arange(3)
    for name in ("pixels", "inputs", "anything"):
        dataset = load_npz(write(tmp_path / f"{name}.npz", **{name: x, "labels": y}), {}, "labels", ["pixels"])
        assert torch.equal(dataset.inputs["pixels"], torch.ones(3, 2))
        assert dataset.target.tolist() == [0, 1, 2]


def test_several_inputs_need_names(tmp_path: Path) -> None:
    path = write(tmp_path / "d.npz", a=np.zeros(2), b=np.ones(2), y=np.arange(2))
    dataset = load_npz(path, {"left": "a", "right": "b"}, "y", ["left", "right"])
    assert dataset.inputs["right"].tolist() == [1.0, 1.0]
    with pytest.raises(DataMismatch) as caught:
        load_npz(path, {"left": "a", "middle": "b"}, "labels", ["left", "right"])
    assert [fault.where for fault in caught.value.faults] == ["/data/inputs", "/data/inputs", "/data/target"]


def test_byte_order_and_unsigned_labels_are_understood(tmp_path: Path) -> None:
    path = write(tmp_path / "d.npz", inputs=np.arange(4, dtype=">f4").reshape(2, 2), labels=np.array([1, 0], np.uint16))
    dataset = load_npz(path, {}, "labels", ["x"])
    assert dataset.inputs["x"].tolist() == [[0.0, 1.0], [2.0, 3.0]]
    assert dataset.target.dtype == torch.int64


@pytest.mark.parametrize(
    "arrays",
    [
        {"inputs": np.array(["a", "b"]), "labels": np.arange(2)},
        {"inputs": np.array([1 + 2j, 0]), "labels": np.arange(2)},
        {"inputs": np.array([{"a": 1}, None], dtype=object), "labels": np.arange(2)},
    ],
)
def test_arrays_that_no_model_takes_are_refused(tmp_path: Path, arrays: dict[str, object]) -> None:
    with pytest.raises(DataUnreadable):
        load_npz(write(tmp_path / "d.npz", **arrays), {}, "labels", ["x"])


def test_a_pickle_inside_is_never_run(tmp_path: Path) -> None:
    witness = tmp_path / "witness"

    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (witness,)

    with pytest.raises(DataUnreadable):
        load_npz(write(tmp_path / "d.npz", inputs=np.array([Bomb()], dtype=object), labels=np.arange(1)), {}, "labels", ["x"])
    assert not witness.exists()


def test_truncated_empty_and_foreign_files_are_refused(tmp_path: Path) -> None:
    whole = write(tmp_path / "d.npz", inputs=np.ones((50, 50)), labels=np.arange(50)).read_bytes()
    contents = [whole[:-200], whole[: len(whole) // 2], b"", b"not a zip", b"\x00" * 40, pickle.dumps([1])]
    for i, content in enumerate(contents):
        path = tmp_path / f"bad{i}.npz"
        path.write_bytes(content)
        with pytest.raises(DataUnreadable) as caught:
            load_npz(path, {}, "labels", ["x"])
        assert caught.value.faults[0].advice


@pytest.mark.parametrize(("rows", "labels"), [(3, 2), (0, 0)])
def test_lengths_must_agree_and_be_positive(tmp_path: Path, rows: int, labels: int) -> None:
    path = write(tmp_path / "d.npz", inputs=np.ones((rows, 2)), labels=np.arange(labels))
    with pytest.raises(DataMismatch):
        load_npz(path, {}, "labels", ["x"])
