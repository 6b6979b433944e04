"""Files quantised by PT2E: operators of `quantized_decomposed`, which round to a grid and read back from it.

An integer tensor that is only read back, on one grid, is a weight in real units under its own name, as in quantised ONNX files.
Rounded activations are floats here that hold integers, so that a gradient passes through.
"""

import inspect
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from worker.engine.models.aten.operators import Given, Read
from worker.engine.models.program import Grid
from worker.engine.models.pt2.document import Argument, Node, Several
from worker.engine.models.pt2.reading import malformed
from worker.engine.models.pt2.signature import Document
from worker.engine.models.rounding import round_codes

NAMESPACE = "torch.ops.quantized_decomposed."
CODES = frozenset({torch.uint8, torch.int8, torch.int16, torch.int32})


def quantise(x: Tensor, scale: Any, zero_point: Any, ends: tuple[int, int]) -> Tensor:
    """Round to a grid; codes as floats."""
    # PyTorch multiplies by the inverse too: a quotient may fall to the other side of a tie.
    offset = zero_point.to(x.dtype) if isinstance(zero_point, Tensor) else zero_point
    return round_codes(x * (1.0 / scale), offset, ends).to(x.dtype)


def dequantise(codes: Tensor, scale: Any, zero_point: Any, out_dtype: torch.dtype | None) -> Tensor:
    """Read back from a grid."""
    values = codes if codes.is_floating_point() else codes.to(torch.float32)
    moved = values if zero_point is None else values - zero_point
    return (moved * scale).to(out_dtype or values.dtype)


def lay_out(parameter: Tensor | None, like: Tensor, axis: int) -> Tensor | None:
    """Return one number for each place along an axis, broadcastable to a tensor."""
    return (
        None
        if parameter is None
        else parameter.to(like.device).reshape([-1 if dim == axis % like.ndim else 1 for dim in range(like.ndim)])
    )


def _quantise_all(input: Tensor, scale: Any, zero_point: Any, quant_min: int, quant_max: int, dtype: Any) -> Tensor:
    return quantise(input, scale, zero_point, (int(quant_min), int(quant_max)))


def _quantise_channels(
    input: Tensor,
    scales: Tensor,
    zero_points: Tensor,
    axis: int,
    quant_min: int,
    quant_max: int,
    dtype: Any,
) -> Tensor:
    return quantise(input, lay_out(scales, input, axis), lay_out(zero_points, input, axis), (quant_min, quant_max))


def _dequantise_all(
    input: Tensor,
    scale: Any,
    zero_point: Any,
    quant_min: int,
    quant_max: int,
    dtype: Any,
    out_dtype: Any = None,
) -> Tensor:
    return dequantise(input, scale, zero_point, out_dtype)


def _dequantise_channels(
    input: Tensor,
    scales: Tensor,
    zero_points: Tensor | None,
    axis: int,
    quant_min: int,
    quant_max: int,
    dtype: Any,
    out_dtype: Any = None,
) -> Tensor:
    return dequantise(input, lay_out(scales, input, axis), lay_out(zero_points, input, axis), out_dtype)


def _choose(input: Tensor, quant_min: int, quant_max: int, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The grid of numbers that are quantised as they come has no gradient."""
    scale, zero_point = run_operator("choose_qparams.tensor", (input.detach().float(), quant_min, quant_max, eps, dtype))
    return scale, zero_point


TO_CODES: dict[str, Callable[..., Any]] = {
    "quantize_per_tensor.default": _quantise_all,
    "quantize_per_tensor.tensor": _quantise_all,
    "quantize_per_channel.default": _quantise_channels,
    "choose_qparams.tensor": _choose,
}
FROM_CODES: dict[str, Callable[..., Any]] = {
    "dequantize_per_tensor.default": _dequantise_all,
    "dequantize_per_tensor.tensor": _dequantise_all,
    "dequantize_per_channel.default": _dequantise_channels,
}
OPERATORS = {f"{NAMESPACE}{name}": function for name, function in (TO_CODES | FROM_CODES).items()}


def check_arguments(node: Node) -> tuple[str, ...]:
    """Return the names of a node's arguments, which must be those of its operator; the file is unreadable otherwise."""
    names = tuple(name for name, _ in node.inputs)
    try:
        inspect.signature(OPERATORS[node.target]).bind(**dict.fromkeys(names))
    except TypeError as error:
        raise malformed(node.target, str(error), names) from error
    return names


def run_operator(name: str, arguments: Any) -> Any:
    """Run PyTorch's own operator."""
    # Registers the operators; only quantised files need it.
    import torch.ao.quantization.fx._decomposed  # noqa: PLC0415

    operator, _, overload = name.removeprefix(NAMESPACE).partition(".")
    called: Any = getattr(getattr(torch.ops.quantized_decomposed, operator), overload)
    return called(**arguments) if isinstance(arguments, Mapping) else called(*arguments)


def find_grids(document: Document, tensors: Mapping[str, Tensor]) -> dict[str, Grid]:
    """Return the grids of those stored integer tensors that are only read back, always on the same one; by full name."""
    formals = {formal.argument.name: formal.name for formal in document.formals if isinstance(formal.argument, Read)}
    stored = {graph_name: tensors[name] for graph_name, name in formals.items() if name in tensors}
    readers: dict[str, list[Node | None]] = defaultdict(list)
    for node in document.graph.nodes:
        for place, argument in node.inputs:
            reads_back = place == "input" and node.target.removeprefix(NAMESPACE) in FROM_CODES
            for name in _list_reads(argument):
                readers[name].append(node if reads_back else None)
    for name in (name for result in document.results for name in _list_reads(result)):
        readers[name].append(None)
    found = {}
    for name in (name for name in readers if name in stored and stored[name].dtype in CODES):
        first, *others = (None if node is None else _read_grid(node, stored[name], stored) for node in readers[name])
        if first is not None and all(grid is not None and _is_same(first, grid) for grid in others):
            found[formals[name]] = first
    return found


def _list_reads(argument: Argument) -> Iterator[str]:
    if isinstance(argument, Read):
        yield argument.name
    elif isinstance(argument, Several):
        for entry in argument.entries:
            yield from _list_reads(entry)


def _read_grid(node: Node, codes: Tensor, stored: Mapping[str, Tensor]) -> Grid | None:
    """Return the grid that a node reads stored codes on, where the file holds all of it."""
    given: dict[str, Any] = {
        name: stored.get(argument.name) if isinstance(argument, Read) else argument.value
        for name, argument in node.inputs
        if isinstance(argument, Read | Given)
    }
    try:
        if "axis" in given:
            step, zero = (lay_out(given[name], codes, given["axis"]) for name in ("scales", "zero_points"))
        else:
            step, zero = (torch.as_tensor(given[name]) for name in ("scale", "zero_point"))
        grid = Grid(codes, torch.as_tensor(step, dtype=torch.float32), torch.as_tensor(0 if zero is None else zero))
        return grid if grid.decode(codes).shape == codes.shape else None
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError):
        return None  # no such grid: the operator itself will say so, if it is reached


def _is_same(first: Grid, second: Grid) -> bool:
    return torch.equal(first.step, second.step) and torch.equal(first.zero_point, second.zero_point)
