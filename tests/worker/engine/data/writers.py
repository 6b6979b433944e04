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
import safetensors.numpy
from numpy.typing import NDArray

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


WRITERS: dict[str, Write] = {
    "npz": write_npz,
    "compressed npz": write_compressed,
    "tar of npy": write_npy_tar,
    "zip of npy": write_npy_zip,
    "npy in column order": write_fortran,
    "safetensors": write_safetensors,
    "csv": write_csv,
    "jsonl": write_jsonl,
}
