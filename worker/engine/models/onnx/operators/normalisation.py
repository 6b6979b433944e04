"""Normalisation: by stored statistics, or by those of the input itself."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from worker.engine.models.onnx.registry import Family, Node, UncoveredError

operator = Family("normalisation")


def _read_batch_norm(node: Node) -> dict[str, float | bool]:
    attributes = node.attributes
    training = bool(attributes.get("training_mode", 0)) or (node.opset < 14 and any(node.outputs[1:]))
    momentum = attributes.get("momentum", 0.9)
    return {"epsilon": attributes.get("epsilon", 1e-5), "momentum": momentum, "training": training}


@operator("BatchNormalization", since=9, parameters=(1, 2), statistics=(3, 4), prepare=_read_batch_norm, many=True)
def batch_norm(
    x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, *, epsilon: float, momentum: float, training: bool
) -> tuple[Tensor, ...]:
    """Scale (x - mean) / sqrt(variance + epsilon) + bias, per channel."""
    if not training:
        return (functional.batch_norm(x, mean, variance, scale, bias, training=False, eps=epsilon),)
    axes = [axis for axis in range(x.ndim) if axis != 1]
    seen_variance, seen_mean = torch.var_mean(x, axes, correction=0)
    y = functional.batch_norm(x, seen_mean, seen_variance, scale, bias, training=False, eps=epsilon)
    kept = [momentum * old + (1 - momentum) * new for old, new in ((mean, seen_mean), (variance, seen_variance))]
    return (y, *kept, seen_mean, seen_variance)


def _read_old_batch_norm(node: Node) -> dict[str, float | bool]:
    if not node.attributes.get("spatial", 1):
        message = "with spatial=0 keeps statistics per position, which is not supported"
        raise UncoveredError(message)
    return _read_batch_norm(node)


operator("BatchNormalization", since=7, until=9, parameters=(1, 2), statistics=(3, 4), prepare=_read_old_batch_norm, many=True)(
    batch_norm
)


@operator("InstanceNormalization", since=6, parameters=(1, 2))
def instance_norm(x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    """Each channel of each example to mean 0 and variance 1, then scaled."""
    return functional.instance_norm(x, weight=scale, bias=bias, eps=epsilon)


@operator("GroupNormalization", since=21, parameters=(1, 2))
def group_norm(
    x: Tensor, scale: Tensor, bias: Tensor, *, num_groups: int, epsilon: float = 1e-5, stash_type: torch.dtype = torch.float32
) -> Tensor:
    """Each group of channels to mean 0 and variance 1, then scaled per channel."""
    return functional.group_norm(x, num_groups, scale, bias, epsilon)


@operator("GroupNormalization", since=18, until=21, parameters=(1, 2))
def group_norm_per_group(x: Tensor, scale: Tensor, bias: Tensor, *, num_groups: int, epsilon: float = 1e-5) -> Tensor:
    """Each group of channels to mean 0 and variance 1, then scaled per group."""
    repeats = x.shape[1] // num_groups
    return functional.group_norm(x, num_groups, scale.repeat_interleave(repeats), bias.repeat_interleave(repeats), epsilon)


def _read_layer_norm(node: Node) -> dict[str, float | int | bool]:
    attributes = node.attributes
    statistics = any(node.outputs[1:])
    return {"axis": attributes.get("axis", -1), "epsilon": attributes.get("epsilon", 1e-5), "statistics": statistics}


@operator("LayerNormalization", since=1, parameters=(1, 2), prepare=_read_layer_norm, many=True)
def layer_norm(
    x: Tensor, scale: Tensor | None = None, bias: Tensor | None = None, *, axis: int, epsilon: float, statistics: bool = False
) -> tuple[Tensor, ...]:
    """All axes from `axis` on together to mean 0 and variance 1, then scaled; also mean and inverse deviation."""
    shape = x.shape[axis:]
    fits = scale is not None and scale.shape == shape and (bias is None or bias.shape == shape)
    y = functional.layer_norm(x, shape, scale, bias, epsilon) if fits else functional.layer_norm(x, shape, eps=epsilon)
    if not fits:
        y = y if scale is None else y * scale
        y = y if bias is None else y + bias
    if not statistics:
        return (y,)
    axes = list(range(axis % x.ndim, x.ndim))
    variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
    return y, mean, torch.rsqrt(variance + epsilon)


def _read_rms_norm(node: Node) -> dict[str, float | int]:
    return {"axis": node.attributes.get("axis", -1), "epsilon": node.attributes.get("epsilon", 1e-5)}


@operator("RMSNormalization", since=23, parameters=(1,), prepare=_read_rms_norm)
@operator("SimplifiedLayerNormalization", since=1, parameters=(1,), prepare=_read_rms_norm)
def rms_norm(x: Tensor, scale: Tensor, *, axis: int, epsilon: float) -> Tensor:
    """All axes from `axis` on together to root mean square 1, then scaled."""
    shape = x.shape[axis:]
    if scale.shape == shape:
        return functional.rms_norm(x, shape, scale, epsilon)
    return functional.rms_norm(x, shape, eps=epsilon) * scale


@operator("LpNormalization")
def norm_to_one(x: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    """Divide by the p-norm along an axis; a zero vector stays zero."""
    length = torch.linalg.vector_norm(x, p, axis, keepdim=True)
    return torch.where(length == 0, torch.zeros_like(x), x / length)


@operator("LRN")
def local_response_norm(x: Tensor, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0) -> Tensor:
    """Divide by a power of the mean square over `size` neighbouring channels."""
    squares = functional.pad((x * x).flatten(2).unsqueeze(1), (0, 0, (size - 1) // 2, size // 2))
    mean = functional.avg_pool2d(squares, (size, 1), stride=1).reshape(x.shape)
    return x / (bias + alpha * mean) ** beta


@operator("MeanVarianceNormalization", since=9)
def mean_variance_norm(x: Tensor, *, axes: Sequence[int] = (0, 2, 3)) -> Tensor:
    """To mean 0 and variance 1 along the axes."""
    variance, mean = torch.var_mean(x, list(axes), correction=0, keepdim=True)
    return (x - mean) / (torch.sqrt(variance) + 1e-9)
