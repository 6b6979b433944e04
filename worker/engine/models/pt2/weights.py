"""The tensors of an archive: a JSON table says in which entry each lies and with which dtype, sizes and strides."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from schemas.errors import Fault, ModelRefused, ModelUnreadable
from worker.engine.models.pt2.archive import Archive
from worker.engine.models.pt2.document import STRIDED, Declared, read_declared
from worker.engine.models.pt2.reading import read_field, read_flag, read_object, read_text

CHUNK_BYTES = 2**22
MAX_DIMENSIONS = 64


class Payloads:
    """The stored tensors by name. Tensors in one entry share its memory, as they did in the exporter."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._records: dict[str, Tensor] = {}
        self._known: dict[str, tuple[str, Any]] = {}
        for folder, place in (
            ("data/weights", f"data/weights/{archive.model}_weights_config.json"),
            ("data/constants", f"data/constants/{archive.model}_constants_config.json"),
        ):
            table = read_object(read_field(read_object(archive.read_json(place), place), "config", place), place)
            self._known |= {name: (folder, entry) for name, entry in table.items()}

    def __contains__(self, name: str) -> bool:
        return name in self._known

    def check(self, name: str) -> list[Fault]:
        """Return why a tensor cannot be read."""
        folder, entry = self._known[name]
        where = f"{folder}: {name}"
        given = read_object(entry, where)
        record = read_text(read_field(given, "path_name", where), where)
        if read_flag(read_field(given, "use_pickle", where), where) or given.get("tensor_meta") is None:
            advice = "export plain tensors: no tensor subclasses, no script or opaque objects"
            return [Fault(f"{name} is stored as a pickle, which is never opened", where, "a raw tensor", record, advice)]
        declared = read_declared(given["tensor_meta"], where)
        if declared.dtype is None or declared.layout != STRIDED:
            advice = "export a model of ordinary float and integer tensors"
            got = f"dtype {given['tensor_meta']['dtype']}, layout {declared.layout}"
            return [Fault(f"{name} is not a dense tensor of a known dtype", where, "dense float or integer tensors", got, advice)]
        held = self._archive.entries.get(f"{folder}/{record}")
        if "/" in record or held is None:
            return [Fault(f"the bytes of {name} are missing", where, "an entry of its own", record, "upload the file again")]
        return _check_reach(name, where, declared, declared.dtype.itemsize, held.file_size)

    def load(self, name: str) -> Tensor:
        """Return a tensor that `check` finds nothing against."""
        folder, entry = self._known[name]
        declared = read_declared(entry["tensor_meta"], name)
        place = f"{folder}/{entry['path_name']}"
        if place not in self._records:
            self._records[place] = self._read_record(place)
        sizes, strides, offset = _read_layout(declared)
        storage = self._records[place]
        dtype = declared.dtype or torch.uint8
        whole = storage.numel() // dtype.itemsize * dtype.itemsize
        return storage[:whole].view(dtype).as_strided(sizes, strides, offset)

    def _read_record(self, place: str) -> Tensor:
        entry = self._archive.entries[place]
        record = torch.empty(entry.file_size, dtype=torch.uint8)
        target = record.numpy()
        position = 0
        with self._archive.file.open(entry) as source:
            while chunk := source.read(CHUNK_BYTES):
                target[position : position + len(chunk)] = np.frombuffer(chunk, np.uint8)
                position += len(chunk)
        if position != entry.file_size:
            got = f"{position} bytes"
            raise ModelUnreadable(Fault("an entry ends early", place, f"{entry.file_size} bytes", got, "upload the file again"))
        return record


def _check_reach(name: str, where: str, declared: Declared, item_bytes: int, held_bytes: int) -> list[Fault]:
    """Return whether a tensor reaches outside its bytes, or has more elements than they hold."""
    sizes, strides, offset = _read_layout(declared)
    shown = f"sizes {declared.sizes[:8]}, strides {declared.strides[:8]}, offset {declared.offset}"
    whole = (*declared.sizes, *declared.strides, declared.offset)
    if len(sizes) != len(strides) or len(sizes) > MAX_DIMENSIONS or any(not isinstance(n, int) or n < 0 for n in whole):
        return [Fault(f"{name} has sizes that no stored tensor has", where, "as many strides as sizes, none negative", shown)]
    elements = held_bytes // item_bytes
    last = offset + sum((size - 1) * step for size, step in zip(sizes, strides, strict=True))
    if 0 in sizes:
        last = -1
    count = 1
    for size in sizes:
        count *= size
    if last >= elements or count > elements:
        what = f"{name} reaches outside its bytes"
        advice = "store expanded tensors with .contiguous(), and upload the file again"
        return [Fault(what, where, f"at most {elements} elements", shown, advice)]
    return []


def _read_layout(declared: Declared) -> tuple[list[int], list[int], int]:
    sizes, strides = ([n for n in numbers if isinstance(n, int)] for numbers in (declared.sizes, declared.strides))
    return sizes, strides, declared.offset if isinstance(declared.offset, int) else 0


def load_all(payloads: Payloads, names: dict[str, str]) -> dict[str, Tensor]:
    """Return the tensors of these names.

    Args:
        payloads: what the archive holds.
        names: the names, each with its place in the graph's signature.

    Raises:
        ModelRefused: if any cannot be read; all of them are named.
    """
    missing = [
        Fault(f"the archive holds no tensor {name}", where, "an entry in a weights table", "none", "save the model again")
        for name, where in names.items()
        if name not in payloads
    ]
    faults = missing + [fault for name in names if name in payloads for fault in payloads.check(name)]
    if faults:
        raise ModelRefused(*faults)
    return {name: payloads.load(name) for name in names}
