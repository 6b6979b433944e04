"""The same examples in every format give the same bytes, in memory and read batch by batch."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tests.worker.engine.data.writers import WRITERS, Arrays
from worker.engine.data import spool
from worker.engine.data.dataset import Dataset
from worker.engine.data.files import DataFile, Wanted
from worker.engine.data.reading import load_data
from worker.engine.data.rows import StoredRows

WANTED = Wanted({"x": torch.float32}, label_dtype=torch.int64)
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


def read(path: Path) -> Dataset:
    return load_data(DataFile(path, scratch=path.parent), WANTED)


def list_bytes(dataset: Dataset, size: int) -> list[bytes]:
    batches = dataset.batches(size)
    return [inputs["x"].numpy().tobytes() + target.numpy().tobytes() for inputs, target in batches]


@st.composite
def examples(draw: st.DrawFn) -> Arrays:
    rows, width = draw(st.integers(1, 9)), draw(st.integers(1, 4))
    inputs = draw(arrays.arrays(np.float32, (rows, width), elements=FINITE))
    return {"inputs": inputs, "labels": draw(arrays.arrays(np.int64, rows, elements=st.integers(0, 2**40)))}


@pytest.mark.parametrize("name", WRITERS)
@settings(max_examples=15, deadline=None, derandomize=True)
@given(given_examples=examples(), size=st.integers(1, 5))
def test_every_format_gives_the_same_batches(name: str, given_examples: Arrays, size: int) -> None:
    inputs, labels = (torch.from_numpy(given_examples[part].copy()) for part in ("inputs", "labels"))
    wanted = list_bytes(Dataset({"x": inputs}, labels), size)
    with TemporaryDirectory() as folder:
        path = WRITERS[name](Path(folder) / "data", given_examples)
        held = read(path)
        assert isinstance(held.columns["x"], torch.Tensor)
        assert list_bytes(held, size) == wanted
        assert list_bytes(Dataset(held.columns, held.labels).take(range(len(held))), size) == wanted


@pytest.mark.parametrize("name", WRITERS)
def test_what_does_not_fit_into_memory_is_read_from_files_and_is_the_same(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(0)
    # More rows than are decoded at a time.
    given_examples: Arrays = {
        "inputs": generator.standard_normal((3000, 5)).astype(np.float32),
        "labels": generator.integers(0, 9, 3000),
    }
    path = WRITERS[name](tmp_path / "data", given_examples)
    held = read(path)
    monkeypatch.setattr(spool, "HELD_BYTES", 40_000)
    stored = read(path)
    assert isinstance(stored.columns["x"], StoredRows)
    assert list_bytes(stored, 64) == list_bytes(held, 64)
    assert torch.equal(held.inputs["x"], torch.from_numpy(given_examples["inputs"]))
