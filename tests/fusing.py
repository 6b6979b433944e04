"""Fuse BatchNorm into the layer before it, in eager and in float64, so that every export carries the same weights."""

import copy
import itertools

import torch
from torch import Tensor, nn

Fusable = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear
Norm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


def fuse_batch_norm(model: nn.Module) -> nn.Module:
    """Return a copy of the eval-mode model in which each BatchNorm that follows a layer is folded into it.

    y = gain (W x + b - mean) / sqrt(var + eps) + shift becomes one layer with W' = s W, b' = s (b - mean) + shift,
    s = gain / sqrt(var + eps), computed in float64 and stored in the layer's dtype. "Follows" means: is registered
    right after it in the same parent with the same number of channels.
    """
    fused = copy.deepcopy(model).eval()
    for parent in list(fused.modules()):
        children = list(parent.named_children())
        for (name, layer), (norm_name, norm) in itertools.pairwise(children):
            if isinstance(layer, Fusable) and isinstance(norm, Norm) and layer.weight.shape[0] == norm.num_features:
                setattr(parent, name, _fold(layer, norm))
                setattr(parent, norm_name, nn.Identity())
    return fused


def _fold(layer: Fusable, norm: Norm) -> Fusable:
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    scale = norm.weight.double() / torch.sqrt(variance.double() + norm.eps)
    bias = torch.zeros_like(scale) if layer.bias is None else layer.bias.double()
    weight = layer.weight.double() * scale.view(-1, *[1] * (layer.weight.dim() - 1))
    layer.weight = _store(weight, layer.weight)
    layer.bias = _store(scale * (bias - mean.double()) + norm.bias.double(), layer.weight)
    return layer


def _store(value: Tensor, like: Tensor) -> nn.Parameter:
    return nn.Parameter(value.detach().to(like.dtype))
