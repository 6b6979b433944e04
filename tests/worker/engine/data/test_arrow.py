"""Arrow and Parquet: types, lists as axes, missing values, words, damage; and folders that `datasets` saved."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import feather, ipc, parquet

from schemas.errors import DataMismatch, DataUnreadable, Fault
from tests.worker.engine.data.writers import Arrays, build_table, encode_arrow, write_tar
from worker.engine.data.dataset import Dataset
from worker.engine.data.files import Conversion, DataFile, Wanted
from worker.engine.data.reading import load_data

EXAMPLES: Arrays = {"inputs": np.arange(6, dtype=np.float32).reshape(3, 2), "labels": np.arange(3)}


def read(path: Path, columns: Any, wanted: Wanted | None = None, **fields: Any) -> Dataset:
    parquet.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), path)
    return load_data(DataFile(path, **fields), wanted or Wanted({"x": None}))


def refuse(path: Path, columns: Any, **fields: Any) -> tuple[Fault, ...]:
    with pytest.raises((DataUnreadable, DataMismatch)) as caught:
        read(path, columns, **fields)
    return caught.value.faults


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (pa.array([1, 2], pa.int32()), torch.int32),
        (pa.array([1, 2], pa.uint16()), torch.int64),
        (pa.array([1, 2], pa.uint8()), torch.uint8),
        (pa.array([1.5, 2], pa.float64()), torch.float64),
        (pa.array([True, False]), torch.bool),
        (pa.array([7, 9]).dictionary_encode(), torch.int64),
    ],
)
def test_numbers_keep_their_type(tmp_path: Path, values: pa.Array, dtype: torch.dtype) -> None:
    dataset = read(tmp_path / "d", {"x": values, "labels": [0, 1]})
    assert (dataset.inputs["x"].dtype, dataset.inputs["x"].tolist()) == (dtype, values.to_pylist())


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.list_(pa.int64())), pa.large_list(pa.list_(pa.int64(), 2)), pa.list_(pa.list_(pa.int64(), 2), 2)]
)
def test_lists_are_axes(tmp_path: Path, kind: pa.DataType) -> None:
    rows = np.arange(12).reshape(3, 2, 2)
    # A slice: its lists begin in the middle of the values.
    table = pa.table({"x": pa.array([[[9, 9], [9, 9]], *rows.tolist()], kind), "labels": [9, 0, 1, 2]}).slice(1)
    assert torch.equal(read(tmp_path / "d", table).inputs["x"], torch.from_numpy(rows))
    with (tmp_path / "a").open("wb") as file, ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    assert torch.equal(load_data(DataFile(tmp_path / "a"), Wanted({"x": None})).inputs["x"], torch.from_numpy(rows))


def test_tensors_of_a_fixed_shape_keep_it(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    table = pa.table({"x": pa.FixedShapeTensorArray.from_numpy_ndarray(values), "labels": [0, 1]})
    assert torch.equal(read(tmp_path / "d", table).inputs["x"], torch.from_numpy(values))


def test_missing_values_and_other_types_are_told_with_their_rows(tmp_path: Path) -> None:
    faults = refuse(tmp_path / "d", {"x": [1.0, None, 3.0], "labels": [0, 1, None]})
    assert [fault.where for fault in faults] == ["/data/x/1", "/data/labels/2"]
    for values in ([[1, None], [2, 3]], pa.array([1, 2], pa.timestamp("s")), [[[1], [2, 3]], [[1], [2]]]):
        assert refuse(tmp_path / "d", {"x": values, "labels": [0, 1]})
    assert "names no class" in refuse(tmp_path / "d", {"x": [1, 2], "labels": ["a", "b"]})[0].what


def test_words_are_classes_and_ragged_rows_are_padded(tmp_path: Path) -> None:
    columns = {"x": [[1, 2, 3], [4]], "labels": ["b", "a"]}
    dataset = read(tmp_path / "d", columns, classes=("a", "b"), conversions=(("x", Conversion(pad_to=3)),))
    assert dataset.inputs["x"].tolist() == [[1, 2, 3], [4, 0, 0]]
    assert dataset.target.tolist() == [1, 0]
    assert [fault.where for fault in refuse(tmp_path / "d", columns, classes=("a", "b"))] == ["/data/x/1"]


def test_a_large_batch_is_taken_in_parts(tmp_path: Path) -> None:
    values = np.arange(5000)
    feather.write_feather(pa.table({"x": values, "labels": values}), tmp_path / "d", chunksize=5000)
    assert torch.equal(load_data(DataFile(tmp_path / "d"), Wanted({"x": None})).inputs["x"], torch.from_numpy(values))


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    parquet.write_table(build_table(EXAMPLES), buffer)
    for content in (buffer.getvalue(), encode_arrow(EXAMPLES, stream=True), encode_arrow(EXAMPLES, stream=False)):
        for damaged in (content[:-60], content[:20], content[:40] + bytes(len(content) - 40)):
            (tmp_path / "d").write_bytes(damaged)
            with pytest.raises(DataUnreadable):
                load_data(DataFile(tmp_path / "d"), Wanted({"x": None}))


def save(path: Path, states: dict[str, list[str]], files: list[str]) -> Path:
    members = {
        f"{folder}state.json": json.dumps({"_data_files": [{"filename": name} for name in names]}).encode()
        for folder, names in states.items()
    }
    return write_tar(path, members | {name: encode_arrow(EXAMPLES, stream=True) for name in files})


def test_saved_datasets_are_read_in_the_order_of_their_state(tmp_path: Path) -> None:
    path = save(tmp_path / "d", {"digits/": ["b.arrow", "a.arrow"]}, ["digits/a.arrow", "digits/b.arrow"])
    assert load_data(DataFile(path), Wanted({"x": None})).target.tolist() == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize(
    ("states", "files", "said"),
    [
        ({"test/": ["a.arrow"], "train/": ["a.arrow"]}, ["test/a.arrow", "train/a.arrow"], "several splits"),
        ({"": ["a.arrow", "../b.arrow"]}, ["a.arrow"], "missing"),
        ({"": []}, [], "missing"),
    ],
)
def test_saved_datasets_that_are_not_whole_are_refused(tmp_path: Path, states: Any, files: list[str], said: str) -> None:
    with pytest.raises(DataUnreadable, match=said):
        load_data(DataFile(save(tmp_path / "d", states, files)), Wanted({"x": None}))


def test_shards_with_other_columns_are_refused(tmp_path: Path) -> None:
    members = {"a.arrow": encode_arrow(EXAMPLES, stream=False), "b.csv": b"a,b\n1,2\n"}
    with pytest.raises(DataUnreadable, match="no data that can be read"):
        load_data(DataFile(write_tar(tmp_path / "d", members)), Wanted({"x": None}))
    buffer = io.BytesIO()
    feather.write_feather(pa.table({"inputs": [1], "others": [1]}), buffer)
    path = write_tar(tmp_path / "d", {"a.arrow": members["a.arrow"], "b.arrow": buffer.getvalue()})
    with pytest.raises(DataUnreadable, match="differ in their columns"):
        load_data(DataFile(path), Wanted({"x": None}))
