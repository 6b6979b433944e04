"""What is fused: how files spell out attention, layer normalisation, GELU and products with a bias, and the kernel for each."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from worker.engine.models.fusion.matching import Match, Number, Operation, Pattern, Value


class Known(NamedTuple):
    """values: what clean runs know beforehand, weights included. constants: what neither data nor weights change."""

    values: Mapping[str, Any]
    constants: Mapping[str, Any]


class Kernel(NamedTuple):
    """What computes a match: a function of the values of these names, and attributes."""

    function: Callable[..., Tensor]
    inputs: tuple[str, ...]
    attributes: dict[str, Any]


class Fusion(NamedTuple):
    """What is looked for, and the kernel for it; None where it would not do the same."""

    name: str
    patterns: tuple[Operation, ...]
    choose: Callable[[Match, Known], Kernel | None]


def _make(
    kinds: str, *operands: Pattern, swaps: bool = False, test: Callable[[Mapping[str, Any]], bool] | None = None
) -> Operation:
    known = {} if test is None else {"test": test}
    return Operation(frozenset(kinds.split()), operands, swaps, **known)


def _near(number: float) -> Number:
    return Number(f"near {number:.6g}", number)


X = Value("x")

# How ONNX files take one entry along an axis, and swap the last two axes of [B, heads, T, D].

ENTRY = (_make("squeeze", _make("slice", X, Number("start"), Number("end"), Number("axis")), Number("squeezed")),)
SWAPPED = (
    _make(
        "reshape",
        _make("transpose", _make("reshape", X, Value("flat")), test=lambda attributes: attributes.get("perm") == (0, 2, 1)),
        Value("shape"),
    ),
)


def _choose_entry(match: Match, known: Known) -> Kernel | None:
    start, end, axis, squeezed = (int(match.numbers[name]) for name in ("start", "end", "axis", "squeezed"))
    fits = end == start + 1 and start >= 0 and axis == squeezed
    return Kernel(torch.select, (match.values["x"],), {"dim": axis, "index": start}) if fits else None


def swap_last(x: Tensor, *, sizes: Sequence[int]) -> Tensor:
    """Return x in these sizes, its last two axes swapped: a view where x has them already."""
    return x.reshape(sizes).transpose(-1, -2)


def _choose_swapped(match: Match, known: Known) -> Kernel | None:
    flat, shape = (known.constants.get(match.values[name]) for name in ("flat", "shape"))
    if not isinstance(flat, Tensor) or not isinstance(shape, Tensor) or flat.numel() != 3 or shape.numel() < 3:
        return None
    sizes, last = shape.tolist(), flat.tolist()[1:]
    fits = last == sizes[:-3:-1] and min(sizes) > 0
    return Kernel(swap_last, (match.values["x"],), {"sizes": [*sizes[:-2], *last]}) if fits else None


# x W + b.

BIASED = (_make("add", _make("matmul", X, Value("matrix")), Value("bias"), swaps=True),)


def multiply_add(x: Tensor, matrix: Tensor, bias: Tensor) -> Tensor:
    """Return x W + b for W [in, out]."""
    return functional.linear(x, matrix.t(), bias)


def _choose_biased(match: Match, known: Known) -> Kernel | None:
    names = tuple(match.values[name] for name in ("x", "matrix", "bias"))
    matrix, bias = (known.values.get(name) for name in names[1:])
    if not isinstance(matrix, Tensor) or not isinstance(bias, Tensor) or not matrix.is_floating_point():
        return None
    fits = matrix.ndim == 2 and bias.shape == matrix.shape[1:] and bias.dtype == matrix.dtype
    return Kernel(multiply_add, names, {}) if fits else None


# GELU: x f / 2, where f rises from 0 to 2 as 1 + erf(x / sqrt 2), or nearly so as 1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)).

CUBE = (_make("pow", X, _near(3)), _make("mul", X, _make("mul", X, X), swaps=True))
INSIDE = _make("add", X, _make("mul", CUBE, _near(0.044715), swaps=True), swaps=True)
ERF = _make("erf", (_make("div", X, _near(math.sqrt(2))), _make("mul", X, _near(math.sqrt(0.5)), swaps=True)))
TANH = _make("tanh", _make("mul", INSIDE, _near(math.sqrt(2 / math.pi)), swaps=True))


def _gate(rise: Operation) -> tuple[Operation, ...]:
    factors = (X, _make("add", rise, _near(1), swaps=True), _near(0.5))
    return tuple(
        _make("mul", _make("mul", *(factors[i] for i in range(3) if i != last), swaps=True), factors[last], swaps=True)
        for last in range(3)
    )


def _choose_gelu(match: Match, known: Known) -> Kernel:
    exact = any(step.kind == "erf" for step in match.steps)
    return Kernel(functional.gelu, (match.values["x"],), {"approximate": "none" if exact else "tanh"})


# Layer normalisation over the last axis: (x - mean) / sqrt(variance + epsilon) gain + bias.


def _is_last(attributes: Mapping[str, Any]) -> bool:
    axes = next((attributes[name] for name in ("axes", "axis", "dim") if name in attributes), None)
    kept = attributes.get("keepdims", attributes.get("keepdim", "axes" in attributes))
    return axes in (-1, (-1,), [-1]) and bool(kept) and attributes.get("dtype") is None


def _mean(of: Pattern) -> Pattern:
    kept = _make("reducemean", of, _near(-1), test=lambda attributes: bool(attributes.get("keepdims", 1)))
    return (_make("mean reducemean", of, test=_is_last), kept)


CENTRED = _make("sub", X, _mean(X))
SQUARED = (_make("pow", CENTRED, _near(2)), _make("mul", CENTRED, CENTRED))
SPREAD = _make("add", _mean(SQUARED), Number("epsilon", test=lambda number: number > 0), swaps=True)
ROOT = _make("sqrt", SPREAD)
INVERSE = (_make("rsqrt", SPREAD), _make("reciprocal", ROOT))
NORMALISED = (_make("div", CENTRED, ROOT), _make("mul", CENTRED, INVERSE, swaps=True))
LAYER_NORM = (_make("add", _make("mul", NORMALISED, Value("gain"), swaps=True), Value("bias"), swaps=True),)


def normalise(x: Tensor, gain: Tensor, bias: Tensor, *, epsilon: float) -> Tensor:
    """Return the last axis at mean 0 and variance 1, times the gain, plus the bias."""
    if x.shape[-1:] == gain.shape:
        return functional.layer_norm(x, gain.shape, gain, bias, epsilon)
    return functional.layer_norm(x, x.shape[-1:], None, None, epsilon) * gain + bias


def _choose_layer_norm(match: Match, known: Known) -> Kernel | None:
    names = tuple(match.values[name] for name in ("x", "gain", "bias"))
    gain, bias = (known.values.get(name) for name in names[1:])
    if not isinstance(gain, Tensor) or not isinstance(bias, Tensor):
        return None
    fits = gain.ndim == 1 and gain.shape == bias.shape and gain.dtype == bias.dtype
    return Kernel(normalise, names, {"epsilon": match.numbers["epsilon"]}) if fits else None


# Attention: softmax(scale q k^T + mask) v, the scale on the product or on its factors.

QUERY, KEYS = Value("query"), Value("keys")
PRODUCT = "matmul bmm"
SHARED = (
    (
        _make("mul", QUERY, Number("query scale"), swaps=True),
        _make("div", QUERY, Number("query divisor")),
        QUERY,
    ),
    (_make("mul", KEYS, Number("keys scale"), swaps=True), _make("div", KEYS, Number("keys divisor")), KEYS),
)
RAW = _make(PRODUCT, *SHARED)
SCORES = (_make("mul", RAW, Number("scale"), swaps=True), _make("div", RAW, Number("divisor")), RAW)
HIDDEN = Number("hidden", test=lambda number: number == -math.inf)
"""What a masked score becomes. Other large negative numbers would differ where a whole row is masked."""
MASKED = (
    _make("add", SCORES, Value("mask"), swaps=True),
    _make("masked_fill", SCORES, Value("above"), HIDDEN),
    _make("where", Value("above"), HIDDEN, SCORES),
    _make("where", Value("below"), SCORES, HIDDEN),
    *SCORES,
)
ATTENTION = (_make(PRODUCT, _make("softmax", MASKED, test=lambda a: _is_last({**a, "keepdim": True})), Value("values")),)


def attend(
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None, *, scale: float, causal: bool = False
) -> Tensor:
    """Return softmax(scale q k^T + mask) v for k^T [..., D, T]; causal: position i sees none after i.

    The fused kernel gives 0 for a row that is masked as a whole, where the formula has no number: then the formula is used.
    """
    fits = query.is_cpu and 3 <= query.ndim <= 4 and query.shape[:-2] == keys.shape[:-2] == values.shape[:-2]
    if fits and (mask is None or (mask.dtype == query.dtype and bool((mask > -math.inf).any(-1).all()))):
        lift = (slice(None),) if query.ndim == 4 else (None,)  # the kernel is for [B, heads, T, D]
        mixed = functional.scaled_dot_product_attention(
            query[lift], keys.transpose(-1, -2)[lift], values[lift], attn_mask=mask, is_causal=causal, scale=scale
        )
        return mixed if query.ndim == 4 else mixed[0]
    scores = query @ keys * scale
    if causal:
        scores = scores.masked_fill(~_find_triangle(scores), -math.inf)
    return torch.softmax(scores if mask is None else scores + mask, -1) @ values


def _find_triangle(scores: Tensor) -> Tensor:
    return torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()


def _choose_attention(match: Match, known: Known) -> Kernel | None:
    numbers, names = match.numbers, [match.values[name] for name in ("query", "keys", "values")]
    scale = math.prod(numbers.get(f"{of}scale", 1.0) / numbers.get(f"{of}divisor", 1.0) for of in ("", "query ", "keys "))
    if "mask" in match.values:
        return Kernel(attend, (*names, match.values["mask"]), {"scale": scale})
    if "hidden" not in numbers:
        return Kernel(attend, tuple(names), {"scale": scale})
    hides = "above" in match.values
    seen = known.constants.get(match.values["above" if hides else "below"])
    if not isinstance(seen, Tensor) or seen.ndim < 2 or seen.dtype != torch.bool or seen.shape[-1] < 2:
        return None
    seen = (~seen if hides else seen).flatten(0, -3) if seen.ndim > 2 else (~seen if hides else seen)[None]
    causal = len(seen) == 1 and seen.shape[-1] == seen.shape[-2] and torch.equal(seen[0], _find_triangle(seen))
    return Kernel(attend, tuple(names), {"scale": scale, "causal": True}) if causal else None


FUSIONS = (
    Fusion("select", ENTRY, _choose_entry),
    Fusion("transpose", SWAPPED, _choose_swapped),
    Fusion("layer_norm", LAYER_NORM, _choose_layer_norm),
    Fusion("gelu", (*_gate(ERF), *_gate(TANH)), _choose_gelu),
    Fusion("attend", ATTENTION, _choose_attention),
    Fusion("linear", BIASED, _choose_biased),
)
