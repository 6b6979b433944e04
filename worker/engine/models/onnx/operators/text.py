"""Counts of n-grams, of texts that arrive as numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from worker.engine.models.onnx.registry import Family, Node, UncoveredError

operator = Family("text")


@dataclass(frozen=True)
class Grams:
    """The known n-grams of one length: their tokens [G, n], where each is counted, and how much a count weighs."""

    tokens: tuple[tuple[int, ...], ...]
    places: tuple[int, ...]
    weights: tuple[float, ...]


def _read_grams(node: Node) -> dict[str, Any]:
    attributes = node.attributes
    if "pool_strings" in attributes:
        message = "counts words of text, which is not supported"
        raise UncoveredError(message)
    pool, starts, places = attributes["pool_int64s"], attributes["ngram_counts"], attributes["ngram_indexes"]
    weights = attributes.get("weights", (1.0,) * len(places))
    found = []
    done = 0
    for length, (start, end) in enumerate(zip(starts, (*starts[1:], len(pool)), strict=True), 1):
        count = (end - start) // length
        tokens = tuple(tuple(pool[start + n * length : start + (n + 1) * length]) for n in range(count))
        if count and attributes["min_gram_length"] <= length <= attributes["max_gram_length"]:
            found.append(Grams(tokens, places[done : done + count], weights[done : done + count]))
        done += count
    return {"grams": found, "mode": attributes["mode"], "skips": attributes["max_skip_count"], "width": max(places) + 1}


@operator("TfIdfVectorizer", since=9, prepare=_read_grams)
def count_grams(x: Tensor, *, grams: Sequence[Grams], mode: str, skips: int, width: int) -> Tensor:
    """How often each known n-gram stands in a sequence of numbers, up to some skipped between its own, weighted on request."""
    rows = x.reshape(-1, x.shape[-1])
    y = torch.zeros(rows.shape[0], width, device=x.device)
    for entry in grams:
        tokens = torch.tensor(entry.tokens, dtype=x.dtype, device=x.device)  # [G, n]
        gaps = range(1, (skips if tokens.shape[1] > 1 else 0) + 2)
        counts = torch.stack([_count(rows, tokens, gap) for gap in gaps]).sum(0).to(y.dtype)
        if mode != "TF":
            weights = torch.tensor(entry.weights, device=x.device)
            counts = (counts.clamp(max=1) if mode == "IDF" else counts) * weights
        y = y.index_add(1, torch.tensor(entry.places, device=x.device), counts)
    return y.reshape(*x.shape[:-1], width)


def _count(rows: Tensor, tokens: Tensor, gap: int) -> Tensor:
    """Count in each row the places where a gram's tokens stand `gap` apart: [rows, G]."""
    span = (tokens.shape[1] - 1) * gap + 1
    if rows.shape[1] < span:
        return torch.zeros(rows.shape[0], tokens.shape[0], dtype=torch.int64, device=rows.device)
    windows = rows.unfold(1, span, 1)[..., ::gap]  # [rows, places, n]
    return (windows.unsqueeze(2) == tokens).all(-1).sum(1)
