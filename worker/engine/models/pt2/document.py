"""The graph of a torch.export archive as data: values and nodes, each checked for its type. No name in it is resolved."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from schemas.errors import Fault, ModelRefused
from worker.engine.models.aten.operators import Given, Read
from worker.engine.models.pt2.expressions import check_expression
from worker.engine.models.pt2.reading import (
    Object,
    malformed,
    read_field,
    read_flag,
    read_float,
    read_integer,
    read_list,
    read_object,
    read_text,
    read_union,
)

MAX_NODES = 500_000
MAX_GRAPH_DEPTH = 20

DTYPES: dict[int, torch.dtype] = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    10: torch.complex64,
    11: torch.complex128,
    12: torch.bool,
    13: torch.bfloat16,
}
"""torch.export numbers dtypes in its own way. Complex halves, 8-bit floats and wide unsigned integers are left out."""

MEMORY_FORMATS: dict[int, torch.memory_format] = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    3: torch.channels_last_3d,
    4: torch.preserve_format,
}
STRIDED = 7


@dataclass(frozen=True)
class Several:
    """A list of which at least one entry is read by name."""

    entries: tuple[Given | Read, ...]


@dataclass(frozen=True)
class Branch:
    """A graph given to a higher-order operator."""

    graph: "Graph"


@dataclass(frozen=True)
class Foreign:
    """An argument of a kind that no operator of the table takes."""

    kind: str


Argument = Given | Read | Several | Branch | Foreign


@dataclass(frozen=True)
class Declared:
    """What the file says of a tensor. A size is an integer, or the text of an expression: equal texts mean equal sizes."""

    dtype: torch.dtype | None
    sizes: tuple[int | str, ...]
    strides: tuple[int | str, ...]
    offset: int | str
    layout: int


@dataclass(frozen=True)
class Node:
    """One operator. outputs: a name, the names of a list, or None for what is not returned."""

    target: str
    inputs: tuple[tuple[str, Argument], ...]
    outputs: tuple[str | tuple[str, ...] | None, ...]
    label: str
    """The file's own name of the node, or its first output's."""
    module: str
    single: bool
    """A higher-order operator that returns one tensor, not a tuple of one."""

    @property
    def names(self) -> tuple[str, ...]:
        """The outputs' names in order, those of lists included."""
        parts = [output if isinstance(output, tuple) else (output or "",) for output in self.outputs]
        return tuple(name for part in parts for name in part)


@dataclass(frozen=True)
class Graph:
    """A graph: formal inputs, nodes in the order of execution, results, and what is declared of the tensors by name."""

    inputs: tuple[Argument, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Argument, ...]
    tensors: dict[str, Declared] = field(default_factory=dict)


def read_argument(value: Any, where: str, depth: int = 0) -> Argument:
    """Return an argument of a node, an input or an output."""
    kind, content = read_union(value, {*SIMPLE, *LISTS, "as_graph", *FOREIGN}, where)
    if kind in SIMPLE:
        return SIMPLE[kind](content, where)
    if kind in LISTS:
        entries = tuple(LISTS[kind](entry, f"{where}[{place}]") for place, entry in enumerate(read_list(content, where)))
        known = [entry.value for entry in entries if isinstance(entry, Given)]
        return Given(known) if len(known) == len(entries) else Several(entries)
    if kind == "as_graph":
        return Branch(read_graph(read_field(read_object(content, where), "graph", where), where, depth + 1))
    return Foreign(kind.removeprefix("as_"))


def _read_name(content: Any, where: str) -> Read:
    return Read(read_text(read_field(read_object(content, where), "name", where), where))


def _read_symbol(value_kind: str) -> Callable[[Any, str], Given | Read]:
    def read(content: Any, where: str) -> Given | Read:
        kind, inner = read_union(content, {"as_name", value_kind}, where)
        if kind == "as_name":
            return Read(read_text(inner, where), is_float=value_kind == "as_float")
        return SIMPLE[kind](inner, where)

    return read


def _read_optional(content: Any, where: str) -> Given | Read:
    kind, inner = read_union(content, {"as_tensor", "as_none"}, where)
    return SIMPLE[kind](inner, where)


def _read_complex(content: Any, where: str) -> Given:
    parts = read_object(content, where)
    return Given(complex(*(read_float(read_field(parts, name, where), where) for name in ("real", "imag"))))


def _look_up(table: dict[int, Any], what: str) -> Callable[[Any, str], Given]:
    def read(content: Any, where: str) -> Given:
        number = read_integer(content, where)
        if number not in table:
            raise ModelRefused(
                Fault(f"a {what} is not supported", where, f"one of the numbers {sorted(table)}", str(number), "use another one")
            )
        return Given(table[number])

    return read


SIMPLE: dict[str, Callable[[Any, str], Given | Read]] = {
    "as_none": lambda _content, _where: Given(None),
    "as_tensor": _read_name,
    "as_int": lambda content, where: Given(read_integer(content, where)),
    "as_float": lambda content, where: Given(read_float(content, where)),
    "as_string": lambda content, where: Given(read_text(content, where)),
    "as_bool": lambda content, where: Given(read_flag(content, where)),
    "as_sym_int": _read_symbol("as_int"),
    "as_sym_float": _read_symbol("as_float"),
    "as_sym_bool": _read_symbol("as_bool"),
    "as_scalar_type": _look_up(DTYPES, "dtype"),
    "as_memory_format": _look_up(MEMORY_FORMATS, "memory format"),
    "as_layout": _look_up({STRIDED: torch.strided}, "tensor layout"),
    # Which device the exporter was on means nothing here: the program's own takes its place.
    "as_device": lambda _content, _where: Given(torch.device("cpu")),
    "as_optional_tensor": _read_optional,
    "as_complex": _read_complex,
}

LISTS: dict[str, Callable[[Any, str], Given | Read]] = {
    "as_tensors": _read_name,
    "as_ints": SIMPLE["as_int"],
    "as_floats": SIMPLE["as_float"],
    "as_strings": SIMPLE["as_string"],
    "as_bools": SIMPLE["as_bool"],
    "as_sym_ints": SIMPLE["as_sym_int"],
    "as_sym_floats": SIMPLE["as_sym_float"],
    "as_sym_bools": SIMPLE["as_sym_bool"],
    "as_optional_tensors": _read_optional,
}

FOREIGN = frozenset(
    {"as_custom_obj", "as_operator", "as_nested_tensors", "as_int_lists", "as_float_lists", "as_string_to_argument"}
)


def read_declared(value: Any, where: str) -> Declared:
    """Return what is declared of a tensor."""
    given = read_object(value, where)
    dtype = DTYPES.get(read_integer(read_field(given, "dtype", where), where))
    sizes = tuple(_read_size(size, where) for size in read_list(read_field(given, "sizes", where), where))
    strides = tuple(_read_size(size, where) for size in read_list(read_field(given, "strides", where), where))
    offset = _read_size(read_field(given, "storage_offset", where), where)
    return Declared(dtype, sizes, strides, offset, read_integer(read_field(given, "layout", where), where))


def _read_size(value: Any, where: str) -> int | str:
    kind, content = read_union(value, {"as_int", "as_expr"}, where)
    if kind == "as_int":
        return read_integer(content, where)
    return check_expression(read_field(read_object(content, where), "expr_str", where), where)


def read_graph(value: Any, where: str, depth: int = 0) -> Graph:
    """Return a graph and the graphs inside it."""
    if depth > MAX_GRAPH_DEPTH:
        raise ModelRefused(Fault("graphs are nested too deeply", where, f"at most {MAX_GRAPH_DEPTH} levels"))
    given = read_object(value, where)
    nodes = read_list(read_field(given, "nodes", where), f"{where}.nodes")
    if len(nodes) > MAX_NODES:
        raise ModelRefused(Fault("the graph has too many nodes", where, f"at most {MAX_NODES}", str(len(nodes))))
    for group in ("sym_int_values", "sym_bool_values", "sym_float_values"):
        for name, symbol in read_object(given.get(group, {}), where).items():
            _check_symbol(symbol, f"{where}.{group}.{name}")
    return Graph(
        inputs=_read_arguments(given, "inputs", where, depth),
        nodes=tuple(_read_node(node, f"{where}.nodes[{place}]", depth) for place, node in enumerate(nodes)),
        outputs=_read_arguments(given, "outputs", where, depth),
        tensors={
            name: read_declared(tensor, f"{where}.tensor_values.{name}")
            for name, tensor in read_object(read_field(given, "tensor_values", where), where).items()
        },
    )


def _check_symbol(value: Any, where: str) -> None:
    kind, content = read_union(value, {"as_expr", "as_int", "as_bool", "as_float"}, where)
    if kind == "as_expr":
        check_expression(read_field(read_object(content, where), "expr_str", where), where)


def _read_arguments(given: Object, name: str, where: str, depth: int) -> tuple[Argument, ...]:
    found = read_list(read_field(given, name, where), f"{where}.{name}")
    return tuple(read_argument(value, f"{where}.{name}[{place}]", depth) for place, value in enumerate(found))


def _read_node(value: Any, where: str, depth: int) -> Node:
    given = read_object(value, where)
    inputs = []
    for place, entry in enumerate(read_list(read_field(given, "inputs", where), where)):
        here = f"{where}.inputs[{place}]"
        named = read_object(entry, here)
        argument = read_argument(read_field(named, "arg", here), here, depth)
        inputs.append((read_text(read_field(named, "name", here), here), argument))
    outputs = [_read_output(output, where) for output in read_list(read_field(given, "outputs", where), where)]
    stack = read_object(given.get("metadata", {}), where).get("nn_module_stack", "")
    target = read_text(read_field(given, "target", where), where)
    single = given.get("is_hop_single_tensor_return") is True
    first = next((output for output in outputs if isinstance(output, str)), where)
    label = read_text(given.get("name") or first, where)
    return Node(target, tuple(inputs), tuple(outputs), label, find_module(stack), single)


def _read_output(value: Any, where: str) -> str | tuple[str, ...] | None:
    argument = read_argument(value, where, MAX_GRAPH_DEPTH)
    if isinstance(argument, Read):
        return argument.name
    if isinstance(argument, Several) or argument == Given([]):
        entries = argument.entries if isinstance(argument, Several) else ()
        return tuple(entry.name for entry in entries if isinstance(entry, Read))
    if argument == Given(None):
        return None
    raise malformed(where, "the names of what a node returns", value)


def find_module(stack: Any) -> str:
    """Return the dotted path of the innermost module: the stack's entries are `key,path,class`, outer ones first.

    >>> find_module("L__self__,,net.Net;L__self__blocks,blocks.0,torch.nn.modules.linear.Linear"), find_module("")
    ('blocks.0', '')
    """
    last = stack.rpartition(";")[2] if isinstance(stack, str) else ""
    path = last.partition(",")[2].rpartition(",")[0]
    return path if re.fullmatch(r"[\w.]*", path) else ""
