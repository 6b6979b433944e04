"""Counterexamples: the corruptions behind findings, as `.npz` files that anyone can apply and measure again."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from schemas.errors import DataMismatch, DataUnreadable, Fault
from worker.engine.corruption import count_corrupted, is_same
from worker.engine.scopes import Layout
from worker.engine.search import CellResult

LARGEST_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Piece:
    """Part of a corruption: what is added to the weights of one tensor at flat `indices`."""

    indices: Tensor
    values: Tensor


def estimate_counterexample_bytes(result: CellResult) -> int:
    """Return about how large the file will be; a corrupted weight takes an int64 index and a float64 value."""
    corruptions = {id(candidate): candidate.corruption for candidate in result.worst.values()}
    return sum(16 * count_corrupted(corruption) for corruption in corruptions.values())


def save_counterexample(path: Path, result: CellResult, layout: Layout) -> None:
    """Write, for the loss and for every metric, the worst corruption found.

    Arrays `<what>/<tensor>/indices` (int64, flat, rising) and `<what>/<tensor>/values` (float64) say what is
    added to the weights; a metric whose worst corruption is that of the loss is left out.
    """
    arrays: dict[str, np.ndarray[tuple[int], np.dtype[np.generic]]] = {}
    worst = result.worst["loss"].corruption
    for what, candidate in result.worst.items():
        if what != "loss" and is_same(candidate.corruption, worst):
            continue
        for name, place in layout.places.items():
            piece = candidate.corruption[place]
            indices = piece.nonzero().flatten()
            if len(indices):
                arrays[f"{what}/{name}/indices"] = indices.cpu().numpy()
                arrays[f"{what}/{name}/values"] = piece[indices].double().cpu().numpy()
    with path.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def load_counterexample(path: Path) -> dict[str, dict[str, Piece]]:
    """Return what -> tensor name -> piece. Raises DataUnreadable."""
    found: dict[str, dict[str, Piece]] = {}
    try:
        with np.load(path, allow_pickle=False) as file:
            for key in file.files:
                if key.endswith("/indices"):
                    stem = key.removesuffix("/indices")
                    what, _, name = stem.partition("/")
                    piece = Piece(torch.from_numpy(file[key]), torch.from_numpy(file[f"{stem}/values"]))
                    found.setdefault(what, {})[name] = piece
    except (ValueError, OSError, EOFError, KeyError) as error:
        advice = "fetch it again from the server; its digest stands in the report"
        what = "the counterexample cannot be read"
        raise DataUnreadable(Fault(what, path.name, "an .npz written by Faultline", str(error), advice)) from error
    return found


def build_corruption(pieces: Mapping[str, Piece], weights: Mapping[str, Tensor]) -> Tensor:
    """Return the corruption of `weights`, in their order, as one vector [k]. Raises DataMismatch."""
    unknown = sorted(set(pieces) - set(weights))
    if unknown:
        advice = "replay against the model that the report names (subject.model.sha256)"
        raise DataMismatch(
            Fault("the counterexample corrupts weights that the model lacks", "/model", "", ", ".join(unknown), advice)
        )
    vectors = []
    for name, weight in weights.items():
        vector = torch.zeros(weight.numel(), dtype=torch.float64)
        if name in pieces:
            vector[pieces[name].indices] = pieces[name].values
        vectors.append(vector)
    return torch.cat(vectors)
