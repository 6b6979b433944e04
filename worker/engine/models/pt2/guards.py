"""Check what the exporter assumed of the inputs' sizes. PyTorch's runtime refuses inputs that break it; so do we.

The assumptions are Python texts such as `L['x'].size()[0] % 2 == 0`. They are never evaluated as Python: a walk over the
syntax tree knows integers, arithmetic, comparisons and the sizes of inputs; a text that holds anything else is left alone.
"""

import ast
import operator
from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

from schemas.errors import Fault

MAX_LENGTH = 2_000

ARITHMETIC: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
COMPARISONS: dict[type[ast.cmpop], Callable[[int, int], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


def find_broken_guards(guards: Iterable[str], inputs: Mapping[str, Tensor]) -> list[Fault]:
    """Return a fault for each assumption that the inputs break.

    >>> import torch
    >>> [fault.got for fault in find_broken_guards(["L['x'].size()[0] % 2 == 0"], {"x": torch.zeros(3, 1)})]
    ['x: [3, 1]']
    """
    shown = ", ".join(f"{name}: {list(value.shape)}" for name, value in inputs.items())
    advice = "export with the sizes of this data, or with dimensions that are dynamic without conditions"
    return [
        Fault("the inputs break an assumption that the model was exported under", "forward", guard, shown, advice)
        for guard in guards
        if not holds(guard, inputs)
    ]


def holds(guard: str, inputs: Mapping[str, Tensor]) -> bool:
    """Tell whether an assumption holds, or cannot be read."""
    if len(guard) > MAX_LENGTH:
        return True
    try:
        return bool(_evaluate(ast.parse(guard, mode="eval").body, inputs))
    except (SyntaxError, ValueError, KeyError, IndexError, ArithmeticError, RecursionError, MemoryError):
        return True


def _evaluate(node: ast.expr, inputs: Mapping[str, Tensor]) -> int:
    match node:
        case ast.Constant(value=int() as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_evaluate(operand, inputs)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in ARITHMETIC:
            return ARITHMETIC[type(op)](_evaluate(left, inputs), _evaluate(right, inputs))
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in COMPARISONS:
            return COMPARISONS[type(op)](_evaluate(left, inputs), _evaluate(right, inputs))
        case ast.BoolOp(op=op, values=values):
            found = [_evaluate(value, inputs) for value in values]
            return all(found) if isinstance(op, ast.And) else any(found)
        case ast.Subscript(
            value=ast.Call(func=ast.Attribute(value=source, attr="size"), args=[], keywords=[]),
            slice=ast.Constant(value=int() as dimension),
        ):
            return inputs[_find_name(source)].shape[dimension]
    raise ValueError(ast.dump(node))


def _find_name(source: ast.expr) -> str:
    """Return the input behind `L['given']['x']`: its keys, as the exporter joins them."""
    keys: list[str] = []
    while isinstance(source, ast.Subscript) and isinstance(source.slice, ast.Constant):
        keys.append(str(source.slice.value))
        source = source.value
    if not isinstance(source, ast.Name) or source.id != "L":
        raise ValueError(ast.dump(source))
    return "_".join(reversed(keys))
