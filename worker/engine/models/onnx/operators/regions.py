"""Regions of images: folding of columns, pooled boxes, suppression of overlapping boxes."""

import itertools
from typing import Any

import torch
from torch import Tensor

from worker.engine.models.onnx.operators.placement import read_ints
from worker.engine.models.onnx.operators.windows import pad_axes
from worker.engine.models.onnx.registry import Family, Node, UncoveredError

operator = Family("regions")


@operator("Col2Im", since=18, sizes=(1, 2))
def fold(
    x: Tensor,
    sizes: Tensor,
    block: Tensor,
    *,
    strides: tuple[int, ...] | None = None,
    dilations: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None,
) -> Tensor:
    """Add columns of patches up to an image of any number of axes."""
    image, kernel = read_ints(sizes), read_ints(block)
    rank = len(image)
    begin, end = (pads[:rank], pads[rank:]) if pads else ((0,) * rank, (0,) * rank)
    steps, gaps = strides or (1,) * rank, dilations or (1,) * rank
    padded = [size + before + after for size, before, after in zip(image, begin, end, strict=True)]
    counts = [(size - (k - 1) * gap - 1) // step + 1 for size, k, gap, step in zip(padded, kernel, gaps, steps, strict=True)]
    patches = x.reshape(x.shape[0], -1, *kernel, *counts)
    total = x.new_zeros(*patches.shape[:2], *padded)
    both = (slice(None), slice(None))
    for place in itertools.product(*[range(k) for k in kernel]):
        starts = [at * gap for at, gap in zip(place, gaps, strict=True)]
        span = zip(starts, counts, steps, strict=True)
        covered: list[Any] = [*both, *(slice(start, start + (count - 1) * step + 1, step) for start, count, step in span)]
        inner: list[Any] = [*both, *place]
        total[tuple(covered)] += patches[tuple(inner)]
    return pad_axes(total, [-pad for pad in begin], [-pad for pad in end])


def _read_align(node: Node) -> dict[str, Any]:
    get = node.attributes.get
    half = node.opset >= 16 and get("coordinate_transformation_mode", "half_pixel") == "half_pixel"
    if get("mode", "avg") != "avg":
        message = "with mode max is not supported"
        raise UncoveredError(message)
    if get("sampling_ratio", 0) == 0:
        message = "with sampling_ratio 0 takes its number of samples from the data, which is not supported"
        raise UncoveredError(message)
    sizes = (get("output_height", 1), get("output_width", 1))
    return {"sizes": sizes, "samples": get("sampling_ratio"), "scale": get("spatial_scale", 1.0), "offset": 0.5 if half else 0.0}


@operator("RoiAlign", since=10, prepare=_read_align)
def roi_align(
    x: Tensor, boxes: Tensor, batches: Tensor, *, sizes: tuple[int, int], samples: int, scale: float, offset: float
) -> Tensor:
    """Mean of bilinear samples in each cell of each box."""
    height, width = x.shape[2:]
    starts = boxes[:, (1, 0)] * scale - offset  # [R, 2] as y, x
    lengths = boxes[:, (3, 2)] * scale - offset - starts
    if offset == 0.0:
        lengths = lengths.clamp(min=1.0)
    rows = [_place(starts[:, n], lengths[:, n], sizes[n], samples) for n in (0, 1)]
    images = x[batches.to(x.device)]
    picked = _sample(images, rows[0], rows[1], height, width)  # [R, C, h samples, w samples]
    return picked.unflatten(3, (sizes[1], samples)).unflatten(2, (sizes[0], samples)).mean((3, 5))


def _place(start: Tensor, length: Tensor, cells: int, samples: int) -> Tensor:
    steps = torch.arange(cells * samples, dtype=start.dtype, device=start.device)
    return start.unsqueeze(1) + (steps + 0.5) * length.unsqueeze(1) / (cells * samples)


def _sample(images: Tensor, y: Tensor, x: Tensor, height: int, width: int) -> Tensor:
    """Bilinear samples at y [R, H] and x [R, W]; zero more than one pixel outside."""
    parts = []
    for place, size in ((y, height), (x, width)):
        inside = (place >= -1) & (place <= size)
        clamped = place.clamp(0, size - 1)
        low = clamped.floor()
        high = (low + 1).clamp(max=size - 1)
        share = clamped - low
        parts.append((low.long(), high.long(), (1 - share) * inside, share * inside))
    (y0, y1, wy0, wy1), (x0, x1, wx0, wx1) = parts
    total = images.new_zeros(())
    for rows, row_weights in ((y0, wy0), (y1, wy1)):
        band = images.gather(2, rows[:, None, :, None].expand(-1, images.shape[1], -1, width)) * row_weights[:, None, :, None]
        for columns, column_weights in ((x0, wx0), (x1, wx1)):
            index = columns[:, None, None, :].expand(-1, images.shape[1], rows.shape[1], -1)
            total = total + band.gather(3, index) * column_weights[:, None, None, :]
    return total


def _corners(boxes: Tensor, *, centred: bool) -> Tensor:
    """[N, 4] boxes as y0, x0, y1, x1 with the first corner below the second."""
    if centred:
        x, y, width, height = boxes.unbind(1)
        return torch.stack((y - height / 2, x - width / 2, y + height / 2, x + width / 2), 1)
    first, second = boxes[:, :2], boxes[:, 2:]
    return torch.cat((torch.minimum(first, second), torch.maximum(first, second)), 1)


def _overlap(box: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of one box with others."""
    sides = (torch.minimum(box[2:], others[:, 2:]) - torch.maximum(box[:2], others[:, :2])).clamp(min=0)
    shared = sides.prod(1)
    areas = (others[:, 2:] - others[:, :2]).prod(1)
    union = areas + (box[2:] - box[:2]).prod() - shared
    return torch.where(union > 0, shared / union, torch.zeros_like(shared))


@operator("NonMaxSuppression", since=10, dynamic_shape=True, settings=(3, 4))
def suppress(
    boxes: Tensor,
    scores: Tensor,
    limit: Tensor | None = None,
    overlap: Tensor | None = None,
    least: Tensor | None = None,
    *,
    center_point_box: int = 0,
) -> Tensor:
    """Best boxes of each class that do not overlap a better one: rows of batch, class, box."""
    count = 0 if limit is None else int(limit)
    allowed = 0.0 if overlap is None else float(overlap)
    rows: list[tuple[int, int, int]] = []
    for batch in range(scores.shape[0]):
        corners = _corners(boxes[batch], centred=bool(center_point_box))
        for kind in range(scores.shape[1]):
            rows += [(batch, kind, box) for box in _pick(corners, scores[batch, kind], count, allowed, least)]
    return torch.tensor(rows, dtype=torch.int64, device=boxes.device).reshape(-1, 3)


def _pick(corners: Tensor, scores: Tensor, count: int, allowed: float, least: Tensor | None) -> list[int]:
    order = torch.argsort(scores, descending=True, stable=True)
    if least is not None:
        order = order[scores[order] > least]
    chosen: list[int] = []
    while order.numel() and len(chosen) < count:
        best = order[0]
        chosen.append(int(best))
        order = order[1:]
        order = order[_overlap(corners[best], corners[order]) <= allowed]
    return chosen
