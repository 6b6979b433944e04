"""Which stored tensors are weights.

A stored floating-point tensor (initializer or Constant node) is a weight unless one of these holds:

1. Running statistic: every operator that computes with it does so in a slot of running statistics
   (BatchNormalization's mean and variance).
2. Setting: every operator that computes with it does so in a slot that the operator table marks as a setting
   (Resize's scales, Clip's bounds, OneHot's values, RotaryEmbedding's tables) or as statistics; so are the steps of the
   grids that weights are stored on.
3. Declared: the exporter noted that it is a buffer or a constant of the module, not a parameter
   (the default PyTorch exporter writes this for each tensor that it took over unchanged).
4. Number: it has one element, its name is not one that a module gave, no operator reads it in a slot of
   parameters (a bias, a slope) and it is not a bias added to a product: 0.125 before a softmax, the 0.5 of GELU.
5. Fill: its name is made up, all its elements are equal, and no operator reads it as in 4, except as the scale
   and shift of an InstanceNormalization, which stand for nothing where a GroupNorm was written out.
6. Mask: it has no value but zero and one below -9, as added to attention scores.
7. Angles: it is made of cosines and sines (squares of two such tensors, of its halves, or of neighbours add up
   to one), or only cosines and sines are computed from it: rotary and sinusoidal positions.

"Computes with it" looks through operators that only rearrange values (Reshape, Transpose, Cast, Concat, Gather ...).
A tensor that the exporter computed from a parameter alone (a transposed matrix, the rows of a position embedding)
is what is deployed, hence a weight.
"""

import itertools
from collections.abc import Collection, Mapping

from torch import Tensor

from worker.engine.models.onnx.exporter import PARAMETER, Exporter
from worker.engine.models.onnx.graph import Graph, Stored
from worker.engine.models.onnx.uses import Use, Uses
from worker.engine.models.program import SkippedTensor

PRODUCTS = {"MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum"}
MASK_LIMIT = -9.0
MIN_ANGLES = 4
MAX_COMPARED = 64
"""Tensors of one shape that are compared in pairs."""
COMPARED_ROWS = 16
ANGLE_TOLERANCE = 1e-4


def find_skipped(graph: Graph, uses: Uses, exporter: Exporter, grids: Collection[str] = ()) -> dict[str, SkippedTensor]:
    """Return the stored tensors that are no weights, each with its reason.

    Args:
        graph: the model's steps and stored tensors.
        uses: who reads them.
        exporter: what the file says of its tensors.
        grids: scales and zero points of weights that the file stores as integers.

    Returns:
        By name; what is not in it is a weight.
    """
    found = {}
    for name, stored in graph.stored.items():
        reason = "integer" if not stored.tensor.is_floating_point() else _find_role(uses.find_final(name))
        reason = "not_a_weight" if name in grids else reason
        if reason is None and not _is_weight(name, stored, uses, exporter):
            reason = "not_a_weight"
        if reason is not None:
            found[name] = SkippedTensor(name, stored.tensor.numel(), reason)
    open_cases = {name: entry.tensor for name, entry in graph.stored.items() if name not in found and name not in exporter.kinds}
    found.update({name: SkippedTensor(name, open_cases[name].numel(), "not_a_weight") for name in find_angles(open_cases)})
    return found


def _find_role(uses: list[Use]) -> str | None:
    if uses and all(use.slot in use.operator.statistics for use in uses):
        return "running_statistic"
    if uses and all(use.slot in (*use.operator.settings, *use.operator.statistics) for use in uses):
        return "not_a_weight"
    return None


def _is_weight(name: str, stored: Stored, uses: Uses, exporter: Exporter) -> bool:
    if name in exporter.kinds:
        return exporter.kinds[name] == PARAMETER
    final = uses.find_final(name)
    if final and all(_feeds_angles(use, uses) for use in final):
        return False
    named = stored.origin == "initializer" and not exporter.is_generated(name)
    as_parameter = any(use.slot in use.operator.parameters or _is_bias(use, stored.tensor, uses) for use in final)
    if stored.tensor.numel() == 1:
        return named or as_parameter
    if not named and bool((stored.tensor == stored.tensor.flatten()[:1]).all()):
        return as_parameter and any(use.operator.title != "InstanceNormalization" for use in final)
    return not is_mask(stored.tensor)


def _feeds_angles(use: Use, uses: Uses) -> bool:
    readers = {reader.operator.title for output in use.step.outputs for reader in uses.find_final(output)}
    return bool(readers) and readers <= {"Cos", "Sin"}


def _is_bias(use: Use, tensor: Tensor, uses: Uses) -> bool:
    """Whether the tensor is added to a product, as the bias of a layer is."""
    return tensor.ndim > 0 and find_product(use, uses) is not None


def find_product(use: Use, uses: Uses) -> str | None:
    """Return the name of the product that an Add adds this use's value to, or None."""
    if use.operator.title != "Add":
        return None
    writer = uses.find_writer(use.step.inputs[1 - use.slot])
    return writer.name if writer is not None and writer.operator in PRODUCTS else None


def is_mask(tensor: Tensor) -> bool:
    """Whether the tensor holds zeros and one far lower value, and nothing else.

    Args:
        tensor: any non-empty float tensor.

    Returns:
        True for masks that are added to scores.

    >>> import torch
    >>> is_mask(torch.tensor([[0.0, -1e4], [0.0, 0.0]])), is_mask(torch.tensor([0.0, -0.5])), is_mask(torch.zeros(3))
    (True, False, False)
    """
    lowest = tensor.min()
    return bool(lowest < MASK_LIMIT) and bool(((tensor == 0) | (tensor == lowest)).all())


def find_angles(tensors: Mapping[str, Tensor]) -> set[str]:
    """Return the names of the tensors that hold cosines and sines, in pairs of tensors or within one.

    Args:
        tensors: candidates by name.

    Returns:
        The names of those that cannot be anything else.

    >>> import torch
    >>> t = torch.linspace(0, 3, 8)
    >>> sorted(find_angles({"a": t.cos(), "b": t.sin(), "c": t}))
    ['a', 'b']
    """
    bounded = {name: tensor for name, tensor in tensors.items() if _may_hold_angles(tensor)}
    found = {name for name, tensor in bounded.items() if _holds_both(tensor)}
    groups: dict[tuple[int, ...], list[str]] = {}
    for name, tensor in bounded.items():
        groups.setdefault(tuple(tensor.shape), []).append(name)
    for names in groups.values():
        for first, second in itertools.combinations(names[:MAX_COMPARED], 2):
            a, b = bounded[first], bounded[second]
            if _add_up(_take_rows(a), _take_rows(b)) and _add_up(a, b):
                found |= {first, second}
    return found


def _may_hold_angles(tensor: Tensor) -> bool:
    """Whether all values lie in [-1, 1] and are of more than two kinds: gains of one and shifts of zero are not angles."""
    if tensor.numel() < MIN_ANGLES or not float(max(tensor.max(), -tensor.min())) <= 1 + ANGLE_TOLERANCE:
        return False
    return len(_take_rows(tensor).unique()) > 2 or len(tensor.unique()) > 2


def _holds_both(tensor: Tensor) -> bool:
    if tensor.ndim < 2 or tensor.shape[-1] % 2:
        return False
    return _have_both(_take_rows(tensor)) and _have_both(tensor)


def _take_rows(tensor: Tensor) -> Tensor:
    """Return a few rows, evenly spaced: nearly every tensor shows there that it holds no angles."""
    rows = tensor.reshape(-1, tensor.shape[-1]) if tensor.ndim else tensor.reshape(1, 1)
    return rows[:: max(1, len(rows) // COMPARED_ROWS)]


def _have_both(tensor: Tensor) -> bool:
    half = tensor.shape[-1] // 2
    return _add_up(tensor[..., :half], tensor[..., half:]) or _add_up(tensor[..., 0::2], tensor[..., 1::2])


def _add_up(a: Tensor, b: Tensor) -> bool:
    return bool(((a.double() ** 2 + b.double() ** 2 - 1).abs() <= ANGLE_TOLERANCE).all())
