"""How far each operator can carry a change of its weights and its input: the rules of the upper bounds; method section 7.

The table RULES is all that is covered. A rule sees one step on clean values and says how far its output can move.
"""

import math
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor

from worker.engine.models.program import Step

ROUNDING = 1 + 1e-9
"""Norms are computed in float64, whose error is far below this share; each is raised by it."""
FINE = 4
"""Grid points per frequency axis and tap of a kernel: the largest norm on the grid is within 1 / cos(pi / 8) per axis."""
LARGEST_SPECTRUM = 128
"""Convolutions with more channels are bounded without their spectrum, by row and column sums."""
LARGEST_MATRIX = 2048
"""Matrices larger than this on both sides are bounded without their singular values, by Frobenius, row and column sums."""


class NotCoveredError(Exception):
    """No rule says how far this step's output can move; the text names it."""


@dataclass(frozen=True)
class Source:
    """A weight of the scope. index: its place in the scope; entries: how far each entry can move; largest: of the scale."""

    index: int
    entries: Tensor
    largest: float


@dataclass(frozen=True)
class Reach:
    r"""How far a value [B, ...] can move.

    entries: |change| of each entry, when each |a_i| is at most its Source's entry.
    shares: [B, tensors of the scope]: \|change of row b\|_2 <= sum_t shares[b, t] \|a_t / s_t\|_2 when \|a / s\|_2 <= ball.
    spread: labels [R] -> how far z_j - z_label can move [R, C], rows flattened; only where a dense layer made the value.
    """

    entries: Tensor
    shares: Tensor
    spread: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True)
class Call:
    """One step on clean values, and what can move among its inputs.

    known: names of what no data changes. norms: filled with the operator norm of each matrix, by name.
    """

    step: Step
    values: list[Any]
    output: Any
    reaches: list[Reach | None]
    sources: list[Source | None]
    tensors: int
    ball: float
    known: Container[str]
    norms: dict[str, float]

    def refuse(self, why: str) -> NoReturn:
        """Raise the error that names this step."""
        message = f"{self.step.operator} ({self.step.name}) {why}"
        raise NotCoveredError(message)

    def apply(self, replaced: Mapping[int, Any]) -> Tensor:
        """Return the step's output with some inputs replaced."""
        values = [replaced.get(place, value) for place, value in enumerate(self.values)]
        result: Tensor = self.step.function(*values, **self.step.attributes)
        return result

    def take_only(self) -> Reach:
        """Return the reach of the first input when nothing else can move."""
        reach = self.reaches[0]
        if reach is None or any(self.reaches[1:]) or any(self.sources):
            self.refuse("has weights or several inputs that move")
        return reach

    def make_shares(self) -> Tensor:
        """Return zeros [B, tensors]."""
        return torch.zeros(len(self.output), self.tensors, dtype=torch.float64, device=self.output.device)


Rule = Callable[[Call], Reach]


def scale_by(find_constant: Callable[[Mapping[str, Any]], float]) -> Rule:
    """Return the rule of an elementwise function with |f(x) - f(y)| <= constant |x - y|."""

    def rule(call: Call) -> Reach:
        reach, constant = call.take_only(), find_constant(call.step.attributes)
        return Reach(constant * reach.entries, constant * reach.shares)

    return rule


def carry(call: Call) -> Reach:
    """Move entries about: each output entry is one input entry of the same row, none twice."""
    reach = call.take_only()
    _check_rows(call)
    return Reach(call.apply({0: reach.entries.contiguous()}), reach.shares)


def average(call: Call) -> Reach:
    r"""Mean of windows, a matrix M >= 0: entries by M itself; \|M\|_2 <= sqrt(largest row sum x largest column sum)."""
    reach = call.take_only()
    one = torch.ones_like(call.values[0][:1]).requires_grad_()
    with torch.enable_grad():
        sums = call.apply({0: one})
        columns = torch.autograd.grad(sums.sum(), one)[0]
    constant = math.sqrt(float(sums.detach().max()) * float(columns.max())) * ROUNDING
    return Reach(call.apply({0: reach.entries}), constant * reach.shares)


def reduce(call: Call) -> Reach:
    """Mean over whole axes, which must leave axis 0 alone; pools always do."""
    call.take_only()
    _check_rows(call)
    return average(call)


def maximise(call: Call) -> Reach:
    r"""Largest of windows: |max u - max v| <= max |u - v|; an input in m windows counts m times, so \|.\|_2 grows by sqrt(m)."""
    reach = call.take_only()
    axes, operator = call.output.ndim - 2, call.step.operator
    if len(call.values) != 1 or (operator.startswith("aten::") and not operator.endswith(f"{axes}d")):
        call.refuse("has a computed window or no batch")
    windows = _count_windows(call.step.attributes, axes)
    return Reach(call.apply({0: reach.entries}), math.sqrt(windows) * reach.shares)


def _count_windows(attributes: Mapping[str, Any], axes: int) -> int:
    """Return in how many windows an input can be: ceil(kernel / stride) per axis, and every tap where they are dilated."""
    window = attributes.get("window")
    kernel = window.kernel if window else attributes.get("kernel_size", 1)
    strides = window.strides or 1 if window else attributes.get("stride") or kernel
    dilations = (window.dilations if window else attributes.get("dilation")) or 1
    taps, steps, gaps = (_spread(given, axes) for given in (kernel, strides, dilations))
    return math.prod(t if g != 1 else -(-t // s) for t, s, g in zip(taps, steps, gaps, strict=True))


def _spread(given: int | Sequence[int], axes: int) -> Sequence[int]:
    many = [given] if isinstance(given, int) else given
    return many if len(many) == axes else [*many] * axes


def _check_rows(call: Call) -> None:
    """Refuse a step that mixes the rows of axis 0, by what it makes of the row numbers."""
    x = call.values[0]
    rows = torch.arange(len(x), dtype=torch.float64, device=x.device)
    made = call.apply({0: rows.view(-1, *[1] * (x.ndim - 1)).expand(x.shape).contiguous()})
    if made.ndim == 0 or len(made) != len(x) or not torch.equal(made, rows.view(-1, *[1] * (made.ndim - 1)).expand(made.shape)):
        call.refuse("mixes examples")


def add(call: Call) -> Reach:
    """Sum of two values that move, or of one and a weight: the triangle inequality."""
    if call.step.attributes.get("alpha", 1) != 1 or len(call.values) != 2:
        call.refuse("scales its second input")
    entries, shares = torch.zeros_like(call.output), call.make_shares()
    for value, reach, source in zip(call.values, call.reaches, call.sources, strict=True):
        if reach:
            if reach.entries.shape != call.output.shape:
                call.refuse("repeats a value that moves")
            entries, shares = entries + reach.entries, shares + reach.shares
        if source:
            if value.ndim >= call.output.ndim and len(value) != 1:
                call.refuse("adds a weight to each example apart")
            entries = entries + source.entries
            shares[:, source.index] += source.largest * math.sqrt(call.output[0].numel() / value.numel())
    return Reach(entries, shares)


def multiply(x: int, weight: int, bias: int | None) -> Rule:
    """Return the rule of a matrix product (linear, Gemm, MatMul) whose inputs stand at these places."""

    def rule(call: Call) -> Reach:
        matrix, h = _check_product(call, x, weight), call.values[x]
        if matrix.ndim != 2 or h.ndim < 2 or call.step.attributes.get("transA"):
            call.refuse("is no product of examples with one matrix")
        layer = Product(call, x, weight, bias)
        identity = torch.eye(h.shape[-1], dtype=h.dtype, device=h.device)
        columns = layer.run(identity, matrix)
        if not any(torch.equal(columns, each) for each in (matrix, matrix.t())):
            call.refuse("scales its product")
        name = call.step.inputs[weight]
        if name not in call.norms:
            call.norms[name] = bound_matrix_norm(matrix)
        return layer.find_reach(h.flatten(1).norm(dim=1), call.norms[name], 1.0, -1, columns)

    return rule


def convolve(call: Call) -> Reach:
    """Convolution, any stride, dilation, zero padding and groups."""
    taps, h = _check_product(call, 0, 1), call.values[0]
    if h.ndim != taps.ndim or len(call.values) > 3 or call.step.attributes.get("transposed"):
        call.refuse("is no plain convolution of examples")
    layer = Product(call, 0, 1, 2)
    # Sums of squares over every patch; each output channel sees the patches of its own group.
    patches = layer.run(h * h, torch.ones_like(taps)).flatten(2).sum(2).amax(1).sqrt()
    name = call.step.inputs[1]
    if name not in call.norms:
        call.norms[name] = bound_convolution_norm(taps, h.shape[1] // taps.shape[1])
    return layer.find_reach(patches, call.norms[name], math.sqrt(taps[0, 0].numel()), 1, None)


def _check_product(call: Call, x: int, weight: int) -> Tensor:
    """Return the matrix or kernel; refuse where it moves otherwise than as a weight, or the input is a weight."""
    others = [reach for place, reach in enumerate(call.reaches) if place != x]
    if any(others) or call.sources[x] or call.step.inputs[weight] not in call.known:
        call.refuse("multiplies by a matrix that the data or other weights make")
    matrix: Tensor = call.values[weight]
    return matrix


@dataclass(frozen=True)
class Product:
    """A step that is bilinear in its input and weight, with an optional bias; the places of the three."""

    call: Call
    x: int
    weight: int
    bias: int | None

    def run(self, h: Tensor, matrix: Tensor, offset: Tensor | None = None) -> Tensor:
        """Return the product of other operands; without an offset the bias is 0."""
        replaced: dict[int, Any] = {self.x: h, self.weight: matrix}
        if self.bias is not None and self.bias < len(self.call.values) and self.call.values[self.bias] is not None:
            replaced[self.bias] = torch.zeros_like(self.call.values[self.bias]) if offset is None else offset
        return self.call.apply(replaced)

    def find_reach(self, sizes: Tensor, norm: float, overlap: float, axis: int, columns: Tensor | None) -> Reach:
        """(W + dW)(h + d) + b + db - W h - b = dW h + db + (W + dW) d; sizes: |dW h| / |dW|; overlap: operator norm / |dW|."""
        call, h, matrix = self.call, self.call.values[self.x], self.call.values[self.weight]
        reach, source, offset = call.reaches[self.x], call.sources[self.weight], self._find_offset(axis)
        own, shares = torch.zeros_like(call.output), call.make_shares()
        if source:
            moving = h.abs() + reach.entries if reach else h.abs()
            own += self.run(moving, source.entries)
            shares[:, source.index] += source.largest * sizes
        if offset:
            own += self.run(torch.zeros_like(h), torch.zeros_like(matrix), offset.entries)
            shares[:, offset.index] += offset.largest * math.sqrt(call.output[0].numel() / offset.entries.numel())
        entries = own
        if reach:
            entries = own + self.run(reach.entries, matrix.abs())
            shares += (norm + (call.ball * source.largest * overlap if source else 0.0)) * reach.shares
        if columns is None:
            return Reach(entries, shares)
        moved = reach.entries.flatten(0, -2) if reach else None
        return Reach(entries, shares, lambda labels: _find_spread(labels, own.flatten(0, -2), moved, columns))

    def _find_offset(self, axis: int) -> Source | None:
        call = self.call
        source = call.sources[self.bias] if self.bias is not None and self.bias < len(call.sources) else None
        if source:
            h, matrix, ones = call.values[self.x], call.values[self.weight], torch.ones_like(source.entries)
            whole = self.run(torch.zeros_like(h), torch.zeros_like(matrix), ones)
            if source.entries.numel() != call.output.shape[axis] or not bool((whole == 1).all()):
                call.refuse("scales or shares its bias")
        return source


def _find_spread(labels: Tensor, own: Tensor, moved: Tensor | None, columns: Tensor) -> Tensor:
    """|dz_j - dz_y| <= |W_j - W_y| |d| + own_j + own_y, where own is what the layer's own weights do."""
    spread = own + own.gather(1, labels.unsqueeze(1))
    if moved is not None:
        for label in labels.unique().tolist():
            rows = labels == label
            spread[rows] += moved[rows] @ (columns - columns[:, label : label + 1]).abs()
    return spread


def bound_matrix_norm(matrix: Tensor, largest: int = LARGEST_MATRIX) -> float:
    """Return an upper bound of the operator norm: the largest singular value itself where that is affordable."""
    if min(matrix.shape) <= largest:
        return float(torch.linalg.matrix_norm(matrix, 2)) * ROUNDING
    sizes = matrix.abs()
    return ROUNDING * min(float(matrix.norm()), math.sqrt(float(sizes.sum(0).max()) * float(sizes.sum(1).max())))


def bound_convolution_norm(taps: Tensor, groups: int) -> float:
    r"""Return an upper bound of \|conv\|_op on zero-padded input of any size, for any stride and dilation.

    The smaller of sqrt(largest row sum x largest column sum of absolute values) and sup over frequencies of the norm of the
    transfer matrix. The latter by M. Riesz: a trigonometric polynomial of degree (K - 1) / 2 with K taps falls, within
    t of its maximum M, to no less than M cos(t (K - 1) / 2); a grid of 4 K points per axis leaves t <= pi / (4 K).
    """
    bounds = []
    for part in taps.double().chunk(groups):
        size = part.abs().flatten(2).sum(2)
        bounds.append(math.sqrt(float(size.sum(1).max()) * float(size.sum(0).max())))
        if max(part.shape[:2]) <= LARGEST_SPECTRUM:
            kernel = part.shape[2:]
            spectrum = torch.fft.rfftn(part, s=[FINE * tap if tap > 1 else 1 for tap in kernel], dim=tuple(range(2, part.ndim)))
            peak = float(torch.linalg.matrix_norm(spectrum.flatten(2).permute(2, 0, 1), 2).max())
            missed = math.prod(math.cos(math.pi / FINE / tap * (tap - 1) / 2) for tap in kernel)
            bounds[-1] = min(bounds[-1], peak / missed)
    return max(bounds) * ROUNDING


GELU = 1.1290
"""sup |gelu'|: gelu'' = phi(x) (2 - x^2), so it is Phi(sqrt 2) + sqrt 2 phi(sqrt 2) = 1.12890..."""
SILU = 1.0999
"""sup |silu'|: silu'' = s (1 - s) (2 - x tanh(x / 2)) vanishes at |x| = 2.39935..., where silu' = 1.09983..."""


def _steepest(name: str, default: float) -> Rule:
    return scale_by(lambda attributes: max(1.0, abs(float(attributes.get(name, default)))))


RULES: dict[str, Rule] = {
    **dict.fromkeys(
        ("Relu", "Tanh", "Clip", "Abs", "Neg", "aten::relu", "aten::relu6", "aten::tanh", "aten::hardtanh", "aten::abs"),
        scale_by(lambda _: 1.0),
    ),
    "LeakyRelu": _steepest("alpha", 0.01),
    "aten::leaky_relu": _steepest("negative_slope", 0.01),
    "Elu": _steepest("alpha", 1.0),
    "Gelu": scale_by(lambda attributes: GELU if attributes.get("approximate", "none") == "none" else math.inf),
    "aten::gelu": scale_by(lambda attributes: GELU if attributes.get("approximate", "none") == "none" else math.inf),
    "aten::silu": scale_by(lambda _: SILU),
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"), carry),
    **dict.fromkeys(("aten::flatten", "aten::view", "aten::reshape", "aten::squeeze", "aten::unsqueeze"), carry),
    **dict.fromkeys(("aten::permute", "aten::transpose"), carry),
    **dict.fromkeys(("AveragePool", "GlobalAveragePool"), average),
    **dict.fromkeys(("ReduceMean", "aten::mean"), reduce),
    **dict.fromkeys(("aten::avg_pool1d", "aten::avg_pool2d", "aten::avg_pool3d"), average),
    **dict.fromkeys(("aten::adaptive_avg_pool1d", "aten::adaptive_avg_pool2d", "aten::adaptive_avg_pool3d"), average),
    **dict.fromkeys(("MaxPool", "GlobalMaxPool", "aten::max_pool1d", "aten::max_pool2d", "aten::max_pool3d"), maximise),
    **dict.fromkeys(("Add", "aten::add"), add),
    **dict.fromkeys(("MatMul", "aten::matmul", "aten::mm"), multiply(0, 1, None)),
    **dict.fromkeys(("Gemm", "aten::linear"), multiply(0, 1, 2)),
    "aten::addmm": multiply(1, 2, 0),
    **dict.fromkeys(
        ("Conv", "aten::conv1d", "aten::conv2d", "aten::conv3d", "aten::_convolution", "aten::convolution"), convolve
    ),
}
"""Operator -> its rule."""
TURNS = frozenset({"Transpose", "aten::t", "aten::transpose", "aten::permute", "Identity"})
"""Operators that only rearrange a weight."""
SAME = frozenset({"Identity", "Dropout", "aten::dropout", "aten::contiguous", "aten::detach", "prim::output"})
"""Operators that give back their input."""
