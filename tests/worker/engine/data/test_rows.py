"""Rows in files read as rows in memory do, and the engine never reads them all at once."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from schemas.errors import DataUnreadable
from tests.project.tree import ROOT, list_package_files, show
from worker.engine.data.dataset import Dataset
from worker.engine.data.rows import Finish, StoredRows

VALUES = np.random.default_rng(0).standard_normal((10, 2, 3)).astype(np.float32)


def store(path: Path, values: np.ndarray[Any, Any], finish: Finish | None = None, swapped: bool = False) -> StoredRows:
    """Return the rows of a file that holds 5 other bytes first, so that nothing in it is aligned."""
    path.write_bytes(b"\x00" * 5 + (values.byteswap() if swapped else values).tobytes())
    dtype = torch.from_numpy(values).dtype
    return StoredRows(path, 5, len(values), values.shape[1:], dtype, swapped, finish or Finish())


@pytest.mark.parametrize("swapped", [False, True])
def test_batches_and_chosen_rows_are_those_of_the_array(tmp_path: Path, swapped: bool) -> None:
    rows, labels = store(tmp_path / "x", VALUES, swapped=swapped), np.arange(10)
    stored = Dataset({"x": rows}, store(tmp_path / "y", labels))
    held = Dataset({"x": torch.from_numpy(VALUES)}, torch.from_numpy(labels))
    for (ours, mine), (theirs, wanted) in zip(stored.batches(4), held.batches(4), strict=True):
        assert torch.equal(ours["x"], theirs["x"])
        assert torch.equal(mine, wanted)
    assert torch.equal(stored.take([7, 0, 7]).inputs["x"], torch.from_numpy(VALUES)[[7, 0, 7]])
    assert torch.equal(stored.inputs["x"], held.inputs["x"])
    assert (rows.shape, rows.ndim, rows.nbytes, rows.dtype) == ((10, 2, 3), 3, VALUES.nbytes, torch.float32)


def test_stored_rows_are_cast_when_they_are_read(tmp_path: Path) -> None:
    dataset = Dataset({"x": store(tmp_path / "x", VALUES)}, store(tmp_path / "y", np.arange(10))).cast(torch.float64)
    assert torch.equal(dataset.inputs["x"], torch.from_numpy(VALUES).double())
    assert dataset.target.dtype == torch.int64


def test_finished_rows_are_scaled_shifted_and_shaped(tmp_path: Path) -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 12)
    finish = Finish(torch.float64, (3, 2, 2), 1 / 255, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    rows = store(tmp_path / "x", pixels, finish)
    scaled = (pixels.reshape(2, 3, 2, 2) / 255).astype(np.float32)
    mean, std = (np.array(numbers, np.float32).reshape(3, 1, 1) for numbers in ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7)))
    assert np.allclose(rows[:].numpy(), (scaled - mean) / std, rtol=1e-6)
    assert (rows.shape, rows.dtype, rows.nbytes) == ((2, 3, 2, 2), torch.float64, 24 * 8)


def test_a_file_that_has_become_shorter_is_refused(tmp_path: Path) -> None:
    rows = store(tmp_path / "x", VALUES)
    (tmp_path / "x").write_bytes(b"\x00" * 30)
    with pytest.raises(DataUnreadable):
        rows[8:10]


def test_the_engine_reads_data_by_batches_only() -> None:
    """`inputs` and `target` hold everything in memory."""
    everything = re.compile(r"dataset\.(inputs|target)\b")
    files = [path for path in list_package_files("worker") if "engine/data/" not in show(path)]
    assert [show(path) for path in files if everything.search(path.read_text(encoding="utf-8"))] == []
    assert everything.search((ROOT / "tests/worker/engine/test_session.py").read_text(encoding="utf-8"))
