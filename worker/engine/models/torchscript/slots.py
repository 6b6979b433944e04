"""What a value of a TorchScript graph is while the graph is read."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from worker.engine.models.aten.allowlist import split_names

SCALAR_TYPES = split_names("IntType FloatType BoolType StringType NumberType NoneType DeviceObjType")
CONTAINER_TYPES = split_names("ListType TupleType DictType OptionalType AnyType UnionType AnyListType")
OPTIONAL_TYPES = frozenset({"OptionalType", "AnyType", "NoneType", "UnionType"})


@dataclass(frozen=True)
class Known:
    """A graph value that is a Python value known now."""

    value: Any


@dataclass(frozen=True)
class Named:
    """A graph value that steps read by name.

    items: the parts of a tuple or list that is never written into.
    entries: the keys and values of such a dictionary.
    """

    name: str
    items: tuple["Slot", ...] | None = None
    entries: tuple[tuple[str, "Slot"], ...] | None = None


@dataclass(frozen=True)
class Stored:
    """A constant tensor of the graph; it is sorted into the state when the first step reads it."""

    tensor: Tensor


@dataclass(frozen=True)
class Owner:
    """A submodule or object of the file, on the way to an attribute."""

    target: Any
    path: str


Slot = Known | Named | Stored | Owner


def find_parts(slot: Slot) -> tuple[Slot, ...] | None:
    """Return the parts of a tuple or list, where they are known."""
    if isinstance(slot, Known) and isinstance(slot.value, list | tuple):
        return tuple(Known(part) for part in slot.value)
    return slot.items if isinstance(slot, Named) else None


def holds_tensor(value: Any) -> bool:
    """Return whether a known value is a tensor or holds one."""
    return isinstance(value, Tensor) or (isinstance(value, list | tuple) and any(map(holds_tensor, value)))


def may_share(value: Any) -> bool:
    """Return whether a graph value is of a type that shares memory: a tensor or a container, no number or string."""
    return value.type().kind() not in SCALAR_TYPES
