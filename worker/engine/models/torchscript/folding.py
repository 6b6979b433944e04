"""Answer graph nodes while the file is read: sizes of known lists, comparisons with None, arithmetic on known numbers.

What is left is a flat list of steps: branches on `self.training`, on optional layers and on constants are decided here.
"""

from collections.abc import Sequence
from typing import Any

from worker.engine.models.aten import operators
from worker.engine.models.aten.builtins import CONSTANT_ANSWERS, IN_PLACE_BUILTINS
from worker.engine.models.aten.state import State
from worker.engine.models.torchscript.slots import OPTIONAL_TYPES, Known, Named, Owner, Slot, Stored, find_parts


def fold(node: Any, slots: Sequence[Slot], state: State) -> Slot | None:
    """Return what a node gives if that is known now, or the same in every audit."""
    kind = node.kind()
    if kind in CONSTANT_ANSWERS:
        return Known(CONSTANT_ANSWERS[kind])
    if kind in {"aten::__is__", "aten::__isnot__"}:
        same = _compare_with_none(node, slots, state)
        if same is not None:
            return Known(same == (kind == "aten::__is__"))
    entries = dict(slots[0].entries or ()) if slots and isinstance(slots[0], Named) else {}
    if kind == "aten::__getitem__" and isinstance(slots[1], Known) and slots[1].value in entries:
        return entries[slots[1].value]
    if kind in {"aten::len", "aten::__getitem__"}:
        parts = find_parts(slots[0])
        if parts is not None:
            return Known(len(parts)) if kind == "aten::len" else _take_item(parts, slots[1])
    return _compute(node, kind, [slot.value for slot in slots if isinstance(slot, Known)])


def _compute(node: Any, kind: str, known: list[Any]) -> Slot | None:
    overload = str(node.schema()).partition("(")[0].partition(".")[2]
    function = operators.find_builtin(kind, overload)
    returns_python = node.outputsSize() == 1 and "Tensor" not in str(node.output().type())
    if len(known) != node.inputsSize() or function is None or kind in IN_PLACE_BUILTINS or not returns_python:
        return None
    try:
        return Known(function(*known))
    except (ArithmeticError, TypeError, ValueError, LookupError):
        return None  # it fails, or not, when and if the model reaches it


def _take_item(parts: tuple[Slot, ...], index: Slot) -> Slot | None:
    if not isinstance(index, Known) or not isinstance(index.value, int):
        return None
    return parts[index.value] if -len(parts) <= index.value < len(parts) else None


def _compare_with_none(node: Any, slots: Sequence[Slot], state: State) -> bool | None:
    """Return whether `x is None`, where one side is None and the other is known, or typed, to be or not to be."""
    for position, slot in enumerate(slots):
        if isinstance(slot, Known) and slot.value is None:
            other, value = slots[1 - position], list(node.inputs())[1 - position]
            if isinstance(other, Known):
                return other.value is None
            stored = isinstance(other, Named) and (other.name in state.weights or other.name in state.constants)
            if stored or isinstance(other, Owner | Stored) or value.type().kind() not in OPTIONAL_TYPES:
                return False
    return None
