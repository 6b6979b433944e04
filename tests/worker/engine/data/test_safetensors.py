"""safetensors files, written by their own library, and headers that lie."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from schemas.errors import DataUnreadable
from worker.engine.data.files import DataFile, Wanted
from worker.engine.data.reading import load_data

DTYPES = (
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float64,
)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_read_as_it_was_written(tmp_path: Path, dtype: torch.dtype) -> None:
    values = (torch.arange(12).view(4, 3) % 5).to(dtype)
    save_file({"x": values, "labels": torch.arange(4)}, tmp_path / "d", metadata={"made": "by a test"})
    dataset = load_data(DataFile(tmp_path / "d"), Wanted({"x": dtype}))
    assert dataset.inputs["x"].dtype == dtype
    assert torch.equal(dataset.inputs["x"], values)


def write(path: Path, **entry: Any) -> Path:
    good = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
    header = json.dumps({"x": good | entry, "labels": {"dtype": "I64", "shape": [2], "data_offsets": [16, 32]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(32))
    return path


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F8_E4M3"},
        {"dtype": 5},
        {"shape": [2, 3]},
        {"shape": []},
        {"shape": [-2, -2]},
        {"shape": [2**40, 2**40]},
        {"shape": "22"},
        {"data_offsets": [0, 17]},
        {"data_offsets": [16, 0]},
        {"data_offsets": [24, 40]},
        {"data_offsets": [0]},
    ],
)
def test_headers_that_lie_are_refused(tmp_path: Path, entry: dict[str, Any]) -> None:
    with pytest.raises(DataUnreadable) as caught:
        load_data(DataFile(write(tmp_path / "d", **entry)), Wanted({"x": torch.float32}))
    assert caught.value.faults[0].advice
    assert len(load_data(DataFile(write(tmp_path / "d")), Wanted({"x": torch.float32}))) == 2


@pytest.mark.parametrize(
    "content", [b"\xff" * 7 + b"\x7f{}", (2).to_bytes(8, "little") + b"{]", (4).to_bytes(8, "little") + b"[12]"]
)
def test_files_without_a_readable_header_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "d").write_bytes(content)
    with pytest.raises(DataUnreadable):
        load_data(DataFile(tmp_path / "d", format="safetensors"), Wanted({"x": None}))
