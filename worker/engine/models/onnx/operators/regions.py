"""Regions of images: folding of columns, pooled boxes, suppression of overlapping boxes."""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from worker.engine.models.onnx.operators.placement import read_ints
from worker.engine.models.onnx.operators.windows import pad_axes
from worker.engine.models.onnx.registry import Family, Node

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
    return {
        "sizes": (get("output_height", 1), get("output_width", 1)),
        "samples": get("sampling_ratio", 0),
        "scale": get("spatial_scale", 1.0),
        "offset": 0.5 if half else 0.0,
        "largest": get("mode", "avg") == "max",
    }


@operator("RoiAlign", since=10, prepare=_read_align)
def roi_align(
    x: Tensor,
    boxes: Tensor,
    batches: Tensor,
    *,
    sizes: tuple[int, int],
    samples: int,
    scale: float,
    offset: float,
    largest: bool,
) -> Tensor:
    """Mean (or largest share) of bilinear samples in each cell of each box; without a number of samples, one per pixel."""
    starts = boxes[:, (1, 0)] * scale - offset  # [R, 2] as y, x
    lengths = boxes[:, (3, 2)] * scale - offset - starts
    if offset == 0.0:
        lengths = lengths.clamp(min=1.0)
    batches = batches.to(x.device)
    if samples > 0 or not len(boxes):
        return _align_boxes(x[batches], starts, lengths, sizes, (samples, samples), largest=largest)
    counts = torch.ceil(lengths / lengths.new_tensor(sizes)).clamp(min=1).long().tolist()
    return torch.cat(
        [
            _align_boxes(x[batches[n : n + 1]], starts[n : n + 1], lengths[n : n + 1], sizes, count, largest=largest)
            for n, count in enumerate(counts)
        ]
    )


def _align_boxes(
    images: Tensor, starts: Tensor, lengths: Tensor, sizes: Sequence[int], samples: Sequence[int], *, largest: bool
) -> Tensor:
    """Pool boxes [R, 2] of images [R, C, H, W], with the same number of samples per cell in each."""
    rows, columns = (_place(starts[:, n], lengths[:, n], sizes[n], samples[n]) for n in (0, 1))
    parts = _sample(images, rows, columns)  # [R, C, h samples, w samples], one per corner
    cells = [part.unflatten(3, (sizes[1], samples[1])).unflatten(2, (sizes[0], samples[0])) for part in parts]
    return torch.stack(cells).amax((0, 4, 6)) if largest else torch.stack(cells).sum(0).mean((3, 5))


def _place(start: Tensor, length: Tensor, cells: int, samples: int) -> Tensor:
    steps = torch.arange(cells * samples, dtype=start.dtype, device=start.device)
    return start.unsqueeze(1) + (steps + 0.5) * length.unsqueeze(1) / (cells * samples)


def _sample(images: Tensor, y: Tensor, x: Tensor) -> list[Tensor]:
    """Return the four weighted neighbours of y [R, H] and x [R, W]; zero more than one pixel outside."""
    parts = []
    for place, size in ((y, images.shape[2]), (x, images.shape[3])):
        inside = (place >= -1) & (place <= size)
        clamped = place.clamp(0, size - 1)
        low = clamped.floor()
        high = (low + 1).clamp(max=size - 1)
        share = clamped - low
        parts.append((low.long(), high.long(), (1 - share) * inside, share * inside))
    (y0, y1, wy0, wy1), (x0, x1, wx0, wx1) = parts
    found = []
    for rows, row_weights in ((y0, wy0), (y1, wy1)):
        index = rows[:, None, :, None].expand(-1, images.shape[1], -1, images.shape[3])
        band = images.gather(2, index) * row_weights[:, None, :, None]
        for columns, column_weights in ((x0, wx0), (x1, wx1)):
            index = columns[:, None, None, :].expand(-1, images.shape[1], rows.shape[1], -1)
            found.append(band.gather(3, index) * column_weights[:, None, None, :])
    return found


def _read_pool(node: Node) -> dict[str, Any]:
    return {"sizes": node.attributes["pooled_shape"], "scale": node.attributes.get("spatial_scale", 1.0)}


@operator("MaxRoiPool", prepare=_read_pool)
def max_roi_pool(x: Tensor, boxes: Tensor, *, sizes: Sequence[int], scale: float) -> Tensor:
    """Largest element in each cell of each box, whole pixels; zero in a cell without any."""
    y = x[boxes[:, 0].long()]  # [R, C, H, W]
    corners = _round_away(boxes[:, 1:] * scale)
    for axis, cells in enumerate(sizes):
        size = x.shape[2 + axis]
        start = corners[:, 1 - axis]
        length = (corners[:, 3 - axis] - start + 1).clamp(min=1) / cells
        cell = torch.arange(cells, device=x.device)
        low = (torch.floor(cell * length.unsqueeze(1)) + start.unsqueeze(1)).clamp(0, size)
        high = (torch.ceil((cell + 1) * length.unsqueeze(1)) + start.unsqueeze(1)).clamp(0, size)
        pixel = torch.arange(size, device=x.device)
        outside = (pixel < low.unsqueeze(-1)) | (pixel >= high.unsqueeze(-1))  # [R, cells, size]
        spread = y.movedim(2 + axis, -1).unsqueeze(2)  # [R, C, 1, other, size]
        y = spread.masked_fill(outside[:, None, :, None], -torch.inf).amax(-1)  # [R, C, cells, other]
        y = y if axis == 0 else y.transpose(2, 3)
    return y.masked_fill(y == -torch.inf, 0.0)


def _round_away(x: Tensor) -> Tensor:
    return torch.copysign(torch.floor(x.abs() + 0.5), x)


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
