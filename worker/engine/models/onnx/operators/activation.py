"""Activations: element by element, and softmax along an axis."""

import torch
from torch import Tensor
from torch.nn import functional

from worker.engine.models.onnx.registry import Family, Node

operator = Family("activation")

operator("Relu")(torch.relu)
operator("Sigmoid")(torch.sigmoid)
operator("Tanh")(torch.tanh)
operator("Softsign")(functional.softsign)
operator("HardSwish", since=14)(functional.hardswish)


@operator("Softplus")
def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x), without a linear cut-off."""
    return torch.logaddexp(x, x.new_zeros(()))


@operator("Mish", since=18)
def mish(x: Tensor) -> Tensor:
    """X tanh(softplus(x))."""
    return functional.mish(x)


@operator("LeakyRelu", since=6)
def leaky_relu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    """Slope `alpha` below zero."""
    return functional.leaky_relu(x, alpha)


@operator("PRelu", since=7, parameters=(1,))
def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """Learned slope below zero, broadcast to x."""
    return torch.where(x > 0, x, slope * x)


@operator("PRelu", since=6, until=7, parameters=(1,))
def prelu_per_channel(x: Tensor, slope: Tensor) -> Tensor:
    """Learned slope below zero, one per channel or one for all."""
    return prelu(x, slope if slope.numel() == 1 else slope.reshape(-1, *[1] * (x.ndim - 2)))


@operator("Elu", since=6)
def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Alpha (e^x - 1) below zero."""
    return functional.elu(x, alpha)


@operator("Celu", since=12)
def celu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Alpha (e^(x / alpha) - 1) below zero."""
    return functional.celu(x, alpha)


@operator("Selu", since=6)
def selu(x: Tensor, *, alpha: float = 1.6732632, gamma: float = 1.050701) -> Tensor:
    """Gamma times the exponential linear unit."""
    return gamma * functional.elu(x, alpha)


@operator("ThresholdedRelu", since=10)
def thresholded_relu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """X above `alpha`, else zero."""
    return functional.threshold(x, alpha, 0.0)


@operator("Shrink", since=9)
def shrink(x: Tensor, *, bias: float = 0.0, lambd: float = 0.5) -> Tensor:
    """Zero within `lambd` of zero, else moved towards zero by `bias`."""
    moved = torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, torch.zeros_like(x)))
    return moved.to(x.dtype)


@operator("HardSigmoid", since=6)
def hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    """Alpha x + beta, cut to [0, 1]."""
    return torch.clamp(alpha * x + beta, 0.0, 1.0)


def _choose_gelu(node: Node) -> dict[str, str]:
    return {"approximate": node.attributes.get("approximate", "none")}


@operator("Gelu", since=20, prepare=_choose_gelu)
def gelu(x: Tensor, *, approximate: str) -> Tensor:
    """X times the normal distribution function, exact or by tanh."""
    return functional.gelu(x, approximate=approximate)


@operator("Swish", since=24)
def swish(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """X sigmoid(alpha x)."""
    return functional.silu(x) if alpha == 1.0 else x * torch.sigmoid(alpha * x)


@operator("SwiGLU", since=28)
def gated_swish(gate: Tensor, x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Swish of the gate times the value."""
    return swish(gate, alpha=alpha) * x


@operator("Softmax", since=13)
def softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    """Softmax along one axis."""
    return torch.softmax(x, axis)


@operator("LogSoftmax", since=13)
def log_softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    """Logarithm of the softmax along one axis."""
    return torch.log_softmax(x, axis)


@operator("Hardmax", since=13)
def hardmax(x: Tensor, *, axis: int = -1) -> Tensor:
    """One at the first largest element along an axis, else zero."""
    return torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1)


def _flatten_from(x: Tensor, axis: int) -> Tensor:
    return x.flatten(axis) if axis >= 0 else x.flatten(axis + x.ndim)


@operator("Softmax", since=1, until=13)
def softmax_flat(x: Tensor, *, axis: int = 1) -> Tensor:
    """Softmax over all axes from `axis` on, taken as one."""
    return torch.softmax(_flatten_from(x, axis), -1).reshape(x.shape)


@operator("LogSoftmax", since=1, until=13)
def log_softmax_flat(x: Tensor, *, axis: int = 1) -> Tensor:
    """Log-softmax over all axes from `axis` on, taken as one."""
    return torch.log_softmax(_flatten_from(x, axis), -1).reshape(x.shape)


@operator("Hardmax", since=1, until=13)
def hardmax_flat(x: Tensor, *, axis: int = 1) -> Tensor:
    """One at the first largest element of all axes from `axis` on, else zero."""
    return hardmax(_flatten_from(x, axis), axis=-1).reshape(x.shape)
