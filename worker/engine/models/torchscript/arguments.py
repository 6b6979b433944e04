"""Arguments of a TorchScript forward: tensors, or tuples, lists and dictionaries of them, each an input by its own name."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

TENSORS = frozenset({"Tensor", "Optional[Tensor]"})
READS_OF_KEYS = frozenset({"aten::__getitem__", "aten::__contains__", "aten::get"})


@dataclass(frozen=True)
class Argument:
    """One argument of forward, or a part of one.

    name: of the input, or of the argument itself where it holds several. kind: `default` takes the value that its default gives,
    `unknown` cannot be told apart into tensors. keys: of the parts of a dictionary. optional: it may be left out.
    """

    name: str
    kind: Literal["tensor", "tuple", "list", "dict", "default", "unknown"]
    parts: tuple["Argument", ...] = ()
    keys: tuple[str, ...] = ()
    optional: bool = False

    @property
    def inputs(self) -> Iterator["Argument"]:
        """The tensors in it."""
        if self.kind == "tensor":
            yield self
        for part in self.parts:
            yield from part.inputs


def read_arguments(schema: Sequence[Any], values: Sequence[Any]) -> tuple[Argument, ...]:
    """Return what forward takes. A dictionary has the keys, and a list the length, that the graph reads of it.

    Args:
        schema: forward's arguments, without the module itself.
        values: the graph's values, in the same order.

    Returns:
        The arguments.
    """
    taken = {formal.name for formal in schema if str(formal.type) in TENSORS}
    found = []
    for formal, value in zip(schema, values, strict=True):
        argument = _read(formal.type, formal.name, value, taken)
        if argument.kind == "tensor":
            argument = Argument(formal.name, "tensor", optional=formal.has_default_value())
        elif formal.has_default_value():
            argument = Argument(formal.name, "default")
        names = [part.name for part in argument.inputs]
        taken.update(names)
        found.append(argument if len(set(names)) == len(names) else Argument(formal.name, "unknown"))
    return tuple(found)


def _read(kind: Any, name: str, value: Any, taken: Collection[str]) -> Argument:
    """Return the argument of a type; value: the graph's, or None for a part of another one."""
    if str(kind) in TENSORS:
        return Argument(name, "tensor")
    parts: list[Argument] = []
    keys: dict[str, bool] = {}
    if kind.kind() == "TupleType":
        fields = find_fields(kind, len(kind.elements()))
        inner = zip(fields, kind.elements(), strict=True)
        parts = [_read(element, _name_part(name, field, taken), None, taken) for field, element in inner]
    elif kind.kind() == "ListType" and str(kind.getElementType()) == "Tensor":
        parts = [Argument(f"{name}_{place}", "tensor") for place in range(_count_read(value))]
    elif kind.kind() == "DictType" and (str(kind.getKeyType()), str(kind.getValueType())) == ("str", "Tensor"):
        keys = _find_keys(value)
        parts = [Argument(_name_part(name, key, taken), "tensor", optional=optional) for key, optional in keys.items()]
    if not parts or any(part.kind == "unknown" for part in parts):
        return Argument(name, "unknown")
    found: Literal["tuple", "list", "dict"] = "dict" if keys else "list" if kind.kind() == "ListType" else "tuple"
    return Argument(name, found, tuple(parts), tuple(keys))


def _name_part(name: str, key: str | int, taken: Collection[str]) -> str:
    """Return the name of a part: its field or key, where nothing else bears it; else after the argument."""
    return key if isinstance(key, str) and key not in taken else f"{name}_{key}"


def find_fields(kind: Any, count: int) -> Sequence[str | int]:
    """Return the names of a tuple type's fields, or their numbers where they have none."""
    # A named tuple's type prints as NamedTuple(logits : Tensor, mask : Tensor).
    text = kind.str()
    return re.findall(r"(?:\(|, )(\w+) : ", text) if text.startswith("NamedTuple(") else range(count)


def _find_keys(value: Any) -> dict[str, bool]:
    """Return the keys that the graph reads, and whether one may be missing; empty where it reads any in another way."""
    users = [] if value is None else [use.user for use in value.uses()]
    reads = [(user.kind(), _find_constant(user)) for user in users]
    if not all(kind in READS_OF_KEYS and isinstance(key, str) for kind, key in reads):
        return {}
    asked = {key for kind, key in reads if kind != "aten::__getitem__"}
    return {key: key in asked for _, key in reads}


def _count_read(value: Any) -> int:
    """Return how many entries of a list the graph reads; 0 where it does not say."""
    count = 0
    for use in () if value is None else value.uses():
        place = _find_constant(use.user) if use.user.kind() == "aten::__getitem__" else None
        if use.user.kind() == "prim::ListUnpack":
            count = max(count, use.user.outputsSize())
        elif isinstance(place, int) and place >= 0:
            count = max(count, place + 1)
        else:
            return 0
    return count


def _find_constant(node: Any) -> Any:
    """Return the second argument of a node, where it is a constant."""
    given = list(node.inputs())
    source = given[1].node() if len(given) > 1 else None
    return source.output().toIValue() if source is not None and source.kind() == "prim::Constant" else None


@dataclass(frozen=True)
class MakeDict:
    """Builds a dictionary from its values; one that is not given is not in it."""

    keys: tuple[str, ...]

    def __call__(self, *values: Any) -> dict[str, Any]:
        """Return the dictionary."""
        return {key: value for key, value in zip(self.keys, values, strict=True) if value is not None}


def gather(arguments: Sequence[Argument], inputs: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the arguments as forward takes them; what is not among the inputs is left to its default."""
    built = {argument.name: _build(argument, inputs) for argument in arguments if argument.kind != "default"}
    return {name: value for name, value in built.items() if value is not None}


def _build(argument: Argument, inputs: Mapping[str, Tensor]) -> Any:
    if argument.kind == "tensor":
        return inputs.get(argument.name)
    values = [_build(part, inputs) for part in argument.parts]
    if argument.kind == "dict":
        return MakeDict(argument.keys)(*values)
    return values if argument.kind == "list" else tuple(values)
