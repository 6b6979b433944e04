"""Recurrent layers: torch's fused kernels where the attributes allow, else a loop over the steps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from worker.engine.models.onnx.registry import Family, Node

operator = Family("recurrent")

Activation = Callable[[Tensor], Tensor]
States = tuple[Tensor, ...]
Cell = Callable[[Tensor, States], States]
"""One step: input [B, I] and states [B, H] -> new states, the first of which is the output."""

LSTM_ORDER = (0, 2, 3, 1)
"""Gates i, o, f, c of ONNX in torch's order i, f, g, o."""
GRU_ORDER = (1, 0, 2)
"""Gates z, r, h of ONNX in torch's order r, z, n."""


def _affine(x: Tensor, alpha: float, beta: float) -> Tensor:
    return alpha * x + beta


ACTIVATIONS: dict[str, tuple[Callable[..., Tensor], tuple[float, ...]]] = {
    "affine": (_affine, (1.0, 0.0)),
    "elu": (functional.elu, (1.0,)),
    "hardsigmoid": (lambda x, a, b: torch.clamp(a * x + b, 0, 1), (0.2, 0.5)),
    "leakyrelu": (functional.leaky_relu, (0.01,)),
    "relu": (torch.relu, ()),
    "scaledtanh": (lambda x, a, b: a * torch.tanh(b * x), (1.0, 1.0)),
    "sigmoid": (torch.sigmoid, ()),
    "softplus": (functional.softplus, ()),
    "softsign": (functional.softsign, ()),
    "tanh": (torch.tanh, ()),
    "thresholdedrelu": (lambda x, a: functional.threshold(x, a, 0.0), (1.0,)),
}


def _read_activations(node: Node, default: Sequence[str], directions: int) -> tuple[tuple[str, ...], list[Activation]]:
    names = tuple(name.lower() for name in node.attributes.get("activations", tuple(default) * directions))
    alphas = list(node.attributes.get("activation_alpha", ()))
    betas = list(node.attributes.get("activation_beta", ()))
    found: list[Activation] = []
    for name in names:
        function, defaults = ACTIVATIONS[name]
        alpha = [alphas.pop(0)] if defaults and alphas else list(defaults[:1])
        beta = [betas.pop(0)] if len(defaults) > 1 and betas else list(defaults[1:])
        found.append(lambda x, f=function, extra=(*alpha, *beta): f(x, *extra))  # type: ignore[misc]
    return names, found


@dataclass(frozen=True)
class Layer:
    """A recurrent layer's attributes. `kernel` is torch's fused one, None when an attribute is beyond it.

    variant: LSTM's coupled input and forget gates, GRU's reset gate after the state's product.
    """

    kernel: Callable[..., Any] | None
    activations: tuple[Activation, ...]
    clip: float | None
    reverse: bool
    batch_first: bool
    variant: bool = False


@dataclass(frozen=True)
class Weights:
    """Input weights [D, gates x H, I], state weights [D, gates x H, H], both biases [D, 2 gates x H]; torch's gate order."""

    W: Tensor
    R: Tensor
    B: Tensor | None
    order: tuple[int, ...]

    def split_bias(self, n: int) -> tuple[Tensor | None, Tensor | None]:
        """Return the input's and the state's bias of one direction."""
        if self.B is None:
            return None, None
        first, second = self.B[n].chunk(2)
        return first, second

    def flatten(self) -> list[Tensor]:
        """Return torch's flat list: per direction input weights, state weights, input bias, state bias."""
        parts = [(self.W[n], self.R[n], *self.split_bias(n)) for n in range(self.W.shape[0])]
        return [_reorder(part, self.order) for direction in parts for part in direction if part is not None]


def _reorder(weights: Tensor, order: Sequence[int]) -> Tensor:
    gates = weights.chunk(len(order), 0)
    return torch.cat([gates[n] for n in order], 0)


def _read_layer(
    node: Node, default: Sequence[str], kernel: Callable[..., Any], *, variant: bool, plain: bool
) -> dict[str, Layer]:
    get = node.attributes.get
    direction = get("direction", "forward")
    directions = 2 if direction == "bidirectional" else 1
    names, activations = _read_activations(node, default, directions)
    fused = plain and get("clip") is None and names == tuple(default) * directions
    layer = Layer(
        kernel=kernel if fused else None,
        activations=tuple(activations),
        clip=get("clip"),
        reverse=direction == "reverse",
        batch_first=bool(get("layout", 0)),
        variant=variant,
    )
    return {"layer": layer}


def _run(
    layer: Layer,
    x: Tensor,
    weights: Weights,
    lengths: Tensor | None,
    given: Sequence[Tensor | None],
    make_cell: Callable[[int], Cell],
) -> tuple[Tensor, ...]:
    """Run a layer; return all outputs [T, D, B, H] and the last states [D, B, H], batch first on request."""
    x = x.transpose(0, 1) if layer.batch_first else x
    directions, width = weights.R.shape[0], weights.R.shape[2]
    empty = x.new_zeros(directions, x.shape[1], width)
    states = [empty if state is None else state.transpose(0, 1) if layer.batch_first else state for state in given]
    lengths = drop_full_lengths(lengths, x)
    if layer.kernel is not None and lengths is None:
        y, lasts = _run_fused(layer, layer.kernel, x, weights, states)
    else:
        y, lasts = run_loop(x, [make_cell(n) for n in range(directions)], states, lengths, reverse=layer.reverse)
    if layer.batch_first:
        return (y.permute(2, 0, 1, 3), *(last.transpose(0, 1) for last in lasts))
    return (y, *lasts)


def _run_fused(
    layer: Layer, kernel: Callable[..., Any], x: Tensor, weights: Weights, states: Sequence[Tensor]
) -> tuple[Tensor, Sequence[Tensor]]:
    directions = weights.W.shape[0]
    # cuDNN gives gradients in training mode only; without dropout the mode changes nothing else.
    rest = (weights.B is not None, 1, 0.0, torch.is_grad_enabled(), directions == 2, False)
    start = tuple(states) if len(states) > 1 else states[0]
    y, *lasts = kernel(x.flip(0) if layer.reverse else x, start, weights.flatten(), *rest)
    y = y.flip(0) if layer.reverse else y
    return y.reshape(y.shape[0], y.shape[1], directions, -1).transpose(1, 2), lasts


def run_loop(
    x: Tensor, cells: Sequence[Cell], states: Sequence[Tensor], lengths: Tensor | None, *, reverse: bool
) -> tuple[Tensor, Sequence[Tensor]]:
    """Run one cell per direction over x [T, B, ...]; return all outputs [T, D, B, H] and the last states [D, B, H]."""
    outputs, lasts = [], []
    for n, cell in enumerate(cells):
        y, last = _walk(x, tuple(state[n] for state in states), cell, lengths, backward=reverse or n == 1)
        outputs.append(y)
        lasts.append(last)
    return torch.stack(outputs, 1), [torch.stack(column) for column in zip(*lasts, strict=True)]


def _walk(x: Tensor, states: States, cell: Cell, lengths: Tensor | None, *, backward: bool) -> tuple[Tensor, States]:
    """Run a cell over the steps of x [T, B, I]; beyond its length an example keeps its state, outputs zero, and reads zero."""
    steps = range(x.shape[0])
    outputs: list[Tensor] = []
    for t in reversed(steps) if backward else steps:
        new = cell(x[t], (outputs[-1], *states[1:]) if outputs and not backward else states)
        if lengths is None:
            outputs.append(new[0])
        else:
            alive = (t < lengths).unsqueeze(1)
            outputs.append(torch.where(alive, new[0], torch.zeros_like(new[0])))
            new = tuple(torch.where(alive, after, before) for after, before in zip(new, states, strict=True))
        states = new
    return torch.stack(outputs[::-1] if backward else outputs), states


def drop_full_lengths(lengths: Tensor | None, x: Tensor) -> Tensor | None:
    """Lengths that say nothing (every sequence is full) are not given; asked only where it costs no synchronisation."""
    if lengths is None or (lengths.is_cpu and bool((lengths == x.shape[0]).all())):
        return None
    return lengths.to(x.device)


def _cut(x: Tensor, limit: float | None) -> Tensor:
    return x if limit is None else torch.clamp(x, -limit, limit)


def read_lstm(node: Node) -> dict[str, Layer]:
    """Return what the attributes say of an LSTM."""
    coupled = bool(node.attributes.get("input_forget", 0))
    plain = not coupled and not node.has_input(7)
    return _read_layer(node, ("sigmoid", "tanh", "tanh"), torch.lstm, variant=coupled, plain=plain)


@operator("LSTM", since=7, parameters=(1, 2, 3, 7), prepare=read_lstm, many=True)
def lstm(  # noqa: PLR0913 - the standard's eight inputs
    x: Tensor,
    W: Tensor,
    R: Tensor,
    B: Tensor | None = None,
    lengths: Tensor | None = None,
    hidden: Tensor | None = None,
    memory: Tensor | None = None,
    P: Tensor | None = None,
    *,
    layer: Layer,
) -> tuple[Tensor, ...]:
    """Long short-term memory with gates i, o, f, c; optional peepholes, clipping, own activations and lengths."""
    weights = Weights(W, R, B, LSTM_ORDER)

    def make_cell(n: int) -> Cell:
        first, second = weights.split_bias(n)
        return make_lstm_cell(n, layer, lambda x, h: functional.linear(x, W[n], first) + functional.linear(h, R[n], second), P)

    return _run(layer, x, weights, lengths, (hidden, memory), make_cell)


def make_lstm_cell(n: int, layer: Layer, project: Callable[[Tensor, Tensor], Tensor], P: Tensor | None) -> Cell:
    """Return one step of a direction; `project` gives the sums of the four gates from an input and the state before."""
    f, g, h = layer.activations[3 * n : 3 * n + 3]
    peeps = P[n].chunk(3) if P is not None else (0.0, 0.0, 0.0)

    def step(x: Tensor, states: States) -> States:
        hidden, memory = states
        i, o, forget, c = project(x, hidden).chunk(4, -1)
        i = f(_cut(i + peeps[0] * memory, layer.clip))
        forget = 1 - i if layer.variant else f(_cut(forget + peeps[2] * memory, layer.clip))
        memory = forget * memory + i * g(_cut(c, layer.clip))
        return f(_cut(o + peeps[1] * memory, layer.clip)) * h(memory), memory

    return step


def _read_gru(node: Node) -> dict[str, Layer]:
    after = bool(node.attributes.get("linear_before_reset", 0))
    return _read_layer(node, ("sigmoid", "tanh"), torch.gru, variant=after, plain=after)


@operator("GRU", since=7, parameters=(1, 2, 3), prepare=_read_gru, many=True)
def gru(
    x: Tensor,
    W: Tensor,
    R: Tensor,
    B: Tensor | None = None,
    lengths: Tensor | None = None,
    hidden: Tensor | None = None,
    *,
    layer: Layer,
) -> tuple[Tensor, ...]:
    """Gated recurrent unit with gates z, r, h; the reset gate before or after the state's product."""
    weights = Weights(W, R, B, GRU_ORDER)
    return _run(layer, x, weights, lengths, (hidden,), lambda n: _make_gru_cell(n, layer, weights))


def _make_gru_cell(n: int, layer: Layer, weights: Weights) -> Cell:
    f, g = layer.activations[2 * n : 2 * n + 2]
    input_bias, state_bias = weights.split_bias(n)
    split = 2 * weights.R.shape[2]
    gates, candidate = weights.R[n].tensor_split((split,))
    gate_bias, candidate_bias = (None, None) if state_bias is None else state_bias.tensor_split((split,))

    def step(x: Tensor, states: States) -> States:
        (hidden,) = states
        xz, xr, xh = functional.linear(x, weights.W[n], input_bias).chunk(3, -1)
        hz, hr = functional.linear(hidden, gates, gate_bias).chunk(2, -1)
        z, r = f(_cut(xz + hz, layer.clip)), f(_cut(xr + hr, layer.clip))
        if layer.variant:
            inner = r * functional.linear(hidden, candidate, candidate_bias)
        else:
            inner = functional.linear(r * hidden, candidate, candidate_bias)
        return ((1 - z) * g(_cut(xh + inner, layer.clip)) + z * hidden,)

    return step


def _read_rnn(node: Node) -> dict[str, Layer]:
    names = {name.lower() for name in node.attributes.get("activations", ("tanh",))}
    if names == {"relu"}:
        return _read_layer(node, ("relu",), torch.rnn_relu, variant=False, plain=True)
    return _read_layer(node, ("tanh",), torch.rnn_tanh, variant=False, plain=True)


@operator("RNN", since=7, parameters=(1, 2, 3), prepare=_read_rnn, many=True)
def rnn(
    x: Tensor,
    W: Tensor,
    R: Tensor,
    B: Tensor | None = None,
    lengths: Tensor | None = None,
    hidden: Tensor | None = None,
    *,
    layer: Layer,
) -> tuple[Tensor, ...]:
    """Plain recurrent layer."""
    weights = Weights(W, R, B, (0,))
    return _run(layer, x, weights, lengths, (hidden,), lambda n: _make_plain_cell(n, layer, weights))


def _make_plain_cell(n: int, layer: Layer, weights: Weights) -> Cell:
    first, second = weights.split_bias(n)

    def step(x: Tensor, states: States) -> States:
        sums = functional.linear(x, weights.W[n], first) + functional.linear(states[0], weights.R[n], second)
        return (layer.activations[n](_cut(sums, layer.clip)),)

    return step
