"""Write the same examples in every data format, by the libraries that people write them with."""

import csv
import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import safetensors.numpy
from numpy.typing import NDArray
from pyarrow import feather, ipc, parquet

Arrays = dict[str, NDArray[Any]]
"""`inputs` [N, k] and `labels` [N]."""
Write = Callable[[Path, Arrays], Path]


def write_npz(path: Path, arrays: Arrays) -> Path:
    np.savez(path.with_suffix(".npz"), **arrays)  # type: ignore[arg-type]
    return path.with_suffix(".npz")


def write_compressed(path: Path, arrays: Arrays) -> Path:
    np.savez_compressed(path.with_suffix(".npz"), **arrays)  # type: ignore[arg-type]
    return path.with_suffix(".npz")


def encode_npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def write_zip(path: Path, members: dict[str, bytes], packing: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", packing) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def write_npy_tar(path: Path, arrays: Arrays) -> Path:
    return write_tar(path, {f"folder/{name}.npy": encode_npy(array) for name, array in arrays.items()})


def write_npy_zip(path: Path, arrays: Arrays) -> Path:
    return write_zip(path, {f"{name}.npy": encode_npy(array) for name, array in arrays.items()})


def write_fortran(path: Path, arrays: Arrays) -> Path:
    return write_npy_tar(path, {name: np.asfortranarray(array) for name, array in arrays.items()})


def write_safetensors(path: Path, arrays: Arrays) -> Path:
    safetensors.numpy.save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)
    return path


def write_csv(path: Path, arrays: Arrays) -> Path:
    inputs, labels = arrays["inputs"], arrays["labels"]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*(f"feature {i}" for i in range(inputs.shape[1])), "labels"])
        writer.writerows([*map(repr, row.tolist()), label] for row, label in zip(inputs, labels.tolist(), strict=True))
    return path


def write_jsonl(path: Path, arrays: Arrays) -> Path:
    rows = zip(arrays["inputs"].tolist(), arrays["labels"].tolist(), strict=True)
    path.write_text("".join(json.dumps({"inputs": row, "labels": label}) + "\n" for row, label in rows))
    return path


def build_table(arrays: Arrays) -> pa.Table:
    inputs = pa.FixedSizeListArray.from_arrays(arrays["inputs"].ravel(), arrays["inputs"].shape[1])
    return pa.table({"inputs": inputs, "labels": arrays["labels"]})


def write_parquet(path: Path, arrays: Arrays) -> Path:
    parquet.write_table(build_table(arrays), path, row_group_size=700)
    return path


def write_flat_parquet(path: Path, arrays: Arrays) -> Path:
    columns = {f"feature {i}": column for i, column in enumerate(arrays["inputs"].T)}
    parquet.write_table(pa.table(columns | {"labels": arrays["labels"]}), path, compression="zstd")
    return path


def encode_arrow(arrays: Arrays, *, stream: bool) -> bytes:
    table = build_table(arrays)
    buffer = io.BytesIO()
    with (ipc.new_stream if stream else ipc.new_file)(buffer, table.schema) as writer:
        writer.write_table(table, max_chunksize=600)
    return buffer.getvalue()


def write_arrow(path: Path, arrays: Arrays) -> Path:
    path.write_bytes(encode_arrow(arrays, stream=False))
    return path


def write_feather(path: Path, arrays: Arrays) -> Path:
    feather.write_feather(build_table(arrays), path, compression="lz4")
    return path


def split_rows(arrays: Arrays) -> list[Arrays]:
    """Return the first third of the examples and the rest."""
    third = max(1, len(arrays["labels"]) // 3)
    parts = [slice(third), slice(third, None)]
    return [{name: array[part] for name, array in arrays.items()} for part in parts if len(arrays["labels"][part])]


def write_parquet_shards(path: Path, arrays: Arrays) -> Path:
    members = {}
    for index, part in enumerate(split_rows(arrays)):
        buffer = io.BytesIO()
        parquet.write_table(build_table(part), buffer)
        members[f"data-{index}.parquet"] = buffer.getvalue()
    return write_zip(path, members)


def write_saved_dataset(path: Path, arrays: Arrays) -> Path:
    """Write what `datasets.Dataset.save_to_disk` leaves: Arrow streams, `state.json` and `dataset_info.json`."""
    parts = [encode_arrow(part, stream=True) for part in split_rows(arrays)]
    names = [f"data-{index:05d}-of-{len(parts):05d}.arrow" for index in range(len(parts))]
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "0", "_split": "test"}
    members = {"state.json": json.dumps(state).encode(), "dataset_info.json": b"{}"}
    return write_tar(path, members | dict(zip(names, parts, strict=True)))


WRITERS: dict[str, Write] = {
    "npz": write_npz,
    "compressed npz": write_compressed,
    "tar of npy": write_npy_tar,
    "zip of npy": write_npy_zip,
    "npy in column order": write_fortran,
    "safetensors": write_safetensors,
    "parquet": write_parquet,
    "parquet, one column per number": write_flat_parquet,
    "zip of parquet": write_parquet_shards,
    "arrow": write_arrow,
    "feather": write_feather,
    "datasets": write_saved_dataset,
    "csv": write_csv,
    "jsonl": write_jsonl,
}
