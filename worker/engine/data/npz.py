"""Read `.npz` data: named arrays, never pickled objects."""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from schemas.errors import DataMismatch, DataUnreadable, Fault
from worker.engine.data.dataset import Dataset

KINDS = "biuf"
"""Array kinds that a model can take: bool, signed and unsigned integers, floats."""


def load_npz(path: Path, columns: Mapping[str, str], target: str | None, input_names: Sequence[str]) -> Dataset:
    """Read the arrays that the model and the loss need.

    Args:
        path: the `.npz` file.
        columns: model input name -> array name; may be empty when the model has one input, whose array is
            then the one called like the input, else `inputs`, else the only one that is not the target.
        target: the array of labels; None when none are needed, and then the target is the row numbers.
        input_names: the inputs that the model needs.

    Returns:
        The examples. DataUnreadable (not an npz, truncated, pickled) and DataMismatch (arrays missing, of
        different lengths, empty) carry every fault.
    """
    arrays = _read_arrays(path)
    chosen = _choose_columns(arrays, columns, target, input_names)
    inputs = {name: arrays[column] for name, column in chosen.items()}
    read = {column: arrays[column] for column in (*chosen.values(), target) if column is not None}
    _check_lengths(read)
    labels = torch.arange(len(next(iter(read.values())))) if target is None else arrays[target].clone()
    return Dataset({name: value.clone() for name, value in inputs.items()}, labels)


def _read_arrays(path: Path) -> dict[str, Tensor]:
    try:
        with path.open("rb") as handle:
            file = np.load(handle, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise DataUnreadable(_unreadable("a single .npy array"))
            return {name: _read_array(name, file[name]) for name in file.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, NotImplementedError) as error:
        raise DataUnreadable(_unreadable(f"{type(error).__name__}: {error}")) from error


def _unreadable(got: str) -> Fault:
    return Fault(
        what="the data file is not a readable .npz archive of plain arrays",
        where="/data",
        expected="an .npz archive written by numpy.savez, without pickled objects",
        got=got,
        advice="write it with numpy.savez(path, inputs=..., labels=...) and check that the upload is complete",
    )


def _read_array(name: str, array: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]") -> Tensor:
    if array.dtype.kind not in KINDS or array.dtype.itemsize > 8:
        raise DataUnreadable(
            Fault(
                what=f"array {name!r} has a dtype that no model takes",
                where=f"/data/{name}",
                expected="numbers or booleans of at most 64 bits",
                got=str(array.dtype),
                advice="convert it before saving, for example with .astype('float32')",
            )
        )
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)
    return torch.from_numpy(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False)))


def _choose_columns(
    arrays: Mapping[str, Tensor], columns: Mapping[str, str], target: str | None, input_names: Sequence[str]
) -> dict[str, str]:
    listed = f"arrays in the file: {sorted(arrays)}"
    faults = [
        Fault(
            f"data.inputs names model input {name!r}, which the model does not have",
            "/data/inputs",
            f"one of {list(input_names)}",
            name,
            "correct the name in data.inputs",
        )
        for name in columns
        if name not in input_names
    ]
    chosen = {name: columns.get(name) or _guess_column(name, arrays, target, alone=len(input_names) == 1) for name in input_names}
    for name, column in chosen.items():
        if column not in arrays:
            advice = "name the array of each model input in data.inputs, as {model input: array}"
            faults.append(
                Fault(f"no array for model input {name!r}", "/data/inputs", f"an array named {column!r}", listed, advice)
            )
    if target is not None and target not in arrays:
        advice = "name the array of labels in data.target"
        faults.append(Fault("the labels are missing", "/data/target", f"an array named {target!r}", listed, advice))
    if faults:
        raise DataMismatch(*faults)
    return chosen


def _guess_column(name: str, arrays: Mapping[str, Tensor], target: str | None, *, alone: bool) -> str:
    others = [column for column in arrays if column != target]
    if name in arrays or not alone:
        return name
    return "inputs" if "inputs" in arrays or len(others) != 1 else others[0]


def _check_lengths(arrays: Mapping[str, Tensor]) -> None:
    lengths = {name: len(value) if value.ndim else None for name, value in arrays.items()}
    if None in lengths.values() or len(set(lengths.values())) > 1:
        advice = "give every array one row per example"
        raise DataMismatch(Fault("the arrays differ in length", "/data", "one length for all", str(lengths), advice))
    if 0 in lengths.values():
        raise DataMismatch(Fault("the data holds no examples", "/data", "at least one example", "0", "add examples"))
