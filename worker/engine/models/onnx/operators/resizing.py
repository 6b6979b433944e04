"""Resizing and sampling at computed positions."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from worker.engine.models.onnx.operators.interpolation import Axis, Rule, find_nearest, find_outside, find_taps
from worker.engine.models.onnx.operators.placement import read_ints
from worker.engine.models.onnx.registry import Family, Node

operator = Family("resizing")

Numbers = Tensor | Sequence[float]
TORCH_MODES = {("linear", 3): "linear", ("linear", 4): "bilinear", ("linear", 5): "trilinear", ("cubic", 4): "bicubic"}
HALF_PIXEL = {"half_pixel", "half_pixel_symmetric", "pytorch_half_pixel"}


def _read_rule(node: Node) -> dict[str, Any]:
    get = node.attributes.get
    rule = Rule(
        mode=get("mode", "nearest"),
        coordinates=get("coordinate_transformation_mode", "half_pixel"),
        rounding=get("nearest_mode", "round_prefer_floor"),
        cubic_a=get("cubic_coeff_a", -0.75),
        exclude_outside=bool(get("exclude_outside", 0)),
        antialias=bool(get("antialias", 0)),
        extrapolation=get("extrapolation_value", 0.0),
    )
    return {"rule": rule, "axes": get("axes"), "policy": get("keep_aspect_ratio_policy", "stretch")}


@operator("Resize", since=11, settings=(1, 2), lists=(1, 2), sizes=(2, 3), prepare=_read_rule)
def resize(
    x: Tensor,
    roi: Numbers | None = None,
    scales: Numbers | None = None,
    sizes: Tensor | None = None,
    *,
    rule: Rule,
    axes: Sequence[int] | None,
    policy: str,
    whole: bool = False,
) -> Tensor:
    """Resample to other sizes: nearest, linear or cubic, in every coordinate convention of the standard."""
    along = range(x.ndim) if axes is None else [axis % x.ndim for axis in axes]
    factors = _read_floats(scales)
    if factors:
        plan = _plan_by_scales(x, along, factors, _read_floats(roi), rule)
    else:
        plan = _plan_by_sizes(x, along, [] if sizes is None else read_ints(sizes), _read_floats(roi), policy)
    changed = {
        axis: entry for axis, entry in plan.items() if entry.count != entry.size or entry.roi != (0.0, 1.0) or entry.scale != 1
    }
    y = _resample(x, changed, rule)
    return y + (y.trunc() - y).detach() if whole else y  # integers, held as floats: the runtime cuts them


def _read_floats(values: Numbers | None) -> list[float]:
    if values is None:
        return []
    return values.tolist() if isinstance(values, Tensor) else list(values)


def _plan_by_scales(x: Tensor, along: Sequence[int], scales: list[float], roi: list[float], rule: Rule) -> dict[int, Axis]:
    parts = _find_parts(along, roi)
    plan = {}
    for axis, scale in zip(along, scales, strict=True):
        start, end = parts[axis] if rule.coordinates == "tf_crop_and_resize" else (0.0, 1.0)
        count = math.floor(np.float32(x.shape[axis]) * np.float32(end - start) * np.float32(scale))
        plan[axis] = Axis(x.shape[axis], count, scale, parts[axis])
    return plan


def _plan_by_sizes(x: Tensor, along: Sequence[int], sizes: list[int], roi: list[float], policy: str) -> dict[int, Axis]:
    parts = _find_parts(along, roi)
    scales = [size / x.shape[axis] for axis, size in zip(along, sizes, strict=True)]
    if policy != "stretch":
        scale = min(scales) if policy == "not_larger" else max(scales)
        scales = [scale] * len(scales)
        sizes = [math.floor(scale * x.shape[axis] + 0.5) for axis in along]
    return {axis: Axis(x.shape[axis], size, scale, parts[axis]) for axis, size, scale in zip(along, sizes, scales, strict=True)}


def _find_parts(along: Sequence[int], roi: list[float]) -> dict[int, tuple[float, float]]:
    if not roi:
        return dict.fromkeys(along, (0.0, 1.0))
    return {axis: (roi[n], roi[n + len(along)]) for n, axis in enumerate(along)}


def _resample(x: Tensor, plan: dict[int, Axis], rule: Rule) -> Tensor:
    fused = _resample_fused(x, plan, rule)
    if fused is not None:
        return fused
    for axis, entry in plan.items():
        x = _resample_axis(x, axis, entry, rule)
    return x


def _resample_fused(x: Tensor, plan: dict[int, Axis], rule: Rule) -> Tensor | None:
    """Return what torch's own kernel computes where it means the same, else None."""
    if not plan or min(plan) < 2 or x.ndim > 5 or not x.is_floating_point():
        return None
    choice = _choose_nearest(plan, rule) if rule.mode == "nearest" else _choose_smooth(x, plan, rule)
    sizes = [plan[axis].count if axis in plan else x.shape[axis] for axis in range(2, x.ndim)]
    return None if choice is None else functional.interpolate(x, sizes, **choice)


def _choose_nearest(plan: dict[int, Axis], rule: Rule) -> dict[str, Any] | None:
    whole = all(entry.count % entry.size == 0 and entry.scale == entry.count // entry.size for entry in plan.values())
    centred = rule.coordinates in HALF_PIXEL and rule.rounding.startswith("round")
    plain = (rule.coordinates, rule.rounding) == ("asymmetric", "floor")
    return {"mode": "nearest"} if whole and (centred or plain) else None


def _choose_smooth(x: Tensor, plan: dict[int, Axis], rule: Rule) -> dict[str, Any] | None:
    mode = TORCH_MODES.get((rule.mode, x.ndim))
    exact = all(entry.count == entry.size * entry.scale for entry in plan.values())
    special = rule.antialias or rule.exclude_outside or (rule.mode == "cubic" and rule.cubic_a != -0.75)
    if mode is None or not exact or special:
        return None
    if rule.coordinates == "align_corners":
        return {"mode": mode, "align_corners": True}
    centred = rule.coordinates in HALF_PIXEL and all(entry.count > 1 for entry in plan.values())
    return {"mode": mode, "align_corners": False} if centred else None


def _resample_axis(x: Tensor, axis: int, entry: Axis, rule: Rule) -> Tensor:
    if rule.mode == "nearest":
        result = x.index_select(axis, find_nearest(entry, rule, x.device))
    else:
        dtype = x.dtype if x.is_floating_point() else torch.float32
        indices, weights = find_taps(entry, rule, x.device, dtype)
        shape = [-1 if a == axis else 1 for a in range(x.ndim)]
        pieces = [x.index_select(axis, indices[:, n]) * weights[:, n].reshape(shape) for n in range(indices.shape[1])]
        result = torch.stack(pieces).sum(0).to(x.dtype)
    outside = find_outside(entry, rule, x.device)
    if outside is None:
        return result
    return result.masked_fill(outside.reshape([-1 if a == axis else 1 for a in range(x.ndim)]), rule.extrapolation)


def _read_plain_rule(node: Node) -> dict[str, Any]:
    mode = node.attributes.get("mode", "nearest")
    rule = Rule("linear" if mode in {"linear", "bilinear"} else mode, "asymmetric")
    scales = node.attributes.get("scales")
    return {"rule": rule, **({} if scales is None else {"scales": scales})}


@operator("Resize", since=10, until=11, settings=(1,), lists=(1,), sizes=(1,), prepare=_read_plain_rule)
@operator("Upsample", since=9, until=10, settings=(1,), lists=(1,), sizes=(1,), prepare=_read_plain_rule)
@operator("Upsample", since=7, until=9, prepare=_read_plain_rule)
def upsample(x: Tensor, scales: Numbers, *, rule: Rule) -> Tensor:
    """Resample by factors, position = index / factor."""
    return resize(x, None, scales, None, rule=rule, axes=None, policy="stretch")


SAMPLING_MODES = {"bilinear": "bilinear", "linear": "bilinear", "nearest": "nearest", "bicubic": "bicubic", "cubic": "bicubic"}


def _read_sampling(node: Node) -> dict[str, Any]:
    get = node.attributes.get
    mode = SAMPLING_MODES[get("mode", "linear")]
    return {"mode": mode, "padding": get("padding_mode", "zeros"), "align": bool(get("align_corners", 0))}


@operator("GridSample", since=16, prepare=_read_sampling)
def grid_sample(x: Tensor, grid: Tensor, *, mode: str, padding: str, align: bool) -> Tensor:
    """Interpolate at the positions of a grid in [-1, 1]."""
    return functional.grid_sample(x, grid, mode=mode, padding_mode=padding, align_corners=align)


@operator("AffineGrid", since=20, sizes=(1,))
def affine_grid(theta: Tensor, sizes: Tensor, *, align_corners: int = 0) -> Tensor:
    """Positions of a grid after an affine map."""
    return functional.affine_grid(theta, read_ints(sizes), align_corners=bool(align_corners))
