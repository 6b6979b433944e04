"""Padding: a value, a reflection, the edge or the other side around a tensor."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from worker.engine.models.onnx.operators.placement import read_ints
from worker.engine.models.onnx.registry import Family, Node

operator = Family("padding")


@lru_cache(maxsize=1024)
def _find_sources(size: int, before: int, after: int, mode: str, device: torch.device) -> Tensor:
    """Return which element of an axis stands at each place of the padded axis; negative pads cut afterwards."""
    places = np.pad(np.arange(size), (max(before, 0), max(after, 0)), mode=mode)  # type: ignore[call-overload]
    kept = places[max(-before, 0) : len(places) - max(-after, 0)]
    return torch.from_numpy(kept).to(device)


def _pad(x: Tensor, amounts: dict[int, tuple[int, int]], mode: str, value: Tensor | float | None) -> Tensor:
    if mode != "constant":
        for axis, (before, after) in amounts.items():
            if before or after:
                x = x.index_select(axis, _find_sources(x.shape[axis], before, after, mode, x.device))
        return x
    pairs = [pad for axis in reversed(range(x.ndim)) for pad in amounts.get(axis, (0, 0))]
    number = 0.0 if value is None else value.item() if isinstance(value, Tensor) else value
    return functional.pad(x, pairs, value=number)


def _read_mode(node: Node) -> dict[str, str]:
    return {"mode": node.attributes.get("mode", "constant")}


@operator("Pad", since=11, settings=(2,), lists=(2,), sizes=(1, 3), prepare=_read_mode)
def pad(x: Tensor, pads: Tensor, value: Tensor | list[float] | None = None, axes: Tensor | None = None, *, mode: str) -> Tensor:
    """Pad or cut before and after some axes."""
    along = range(x.ndim) if axes is None else [axis % x.ndim for axis in read_ints(axes)]
    numbers = read_ints(pads)
    half = len(numbers) // 2
    amounts = dict(zip(along, zip(numbers[:half], numbers[half:], strict=True), strict=True))
    return _pad(x, amounts, mode, value[0] if isinstance(value, list) else value)


def _read_fixed_pads(node: Node) -> dict[str, Any]:
    pads = node.attributes["pads"]
    half = len(pads) // 2
    value = node.attributes.get("value", 0.0)
    return {"pads": tuple(zip(pads[:half], pads[half:], strict=True)), "value": value, **_read_mode(node)}


@operator("Pad", since=2, until=11, prepare=_read_fixed_pads)
def pad_fixed(x: Tensor, *, pads: Sequence[tuple[int, int]], value: float, mode: str) -> Tensor:
    """Pad or cut before and after every axis, amounts as an attribute."""
    return _pad(x, dict(enumerate(pads)), mode, value)
