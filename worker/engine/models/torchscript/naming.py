"""Names for the tensors that a graph holds as constants: a frozen file has no names of its own."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from worker.engine.models.aten.operators import parse_schema

RECURRENT = frozenset({"lstm", "gru", "rnn_tanh", "rnn_relu"})


@dataclass(frozen=True)
class ConstantName:
    """The module and the argument that a constant belongs to: `conv2d_3` and `weight`."""

    module: str
    argument: str


def name_constants(graph: Any) -> dict[str, ConstantName]:
    """Return, per constant tensor of the graph, a name made of the first operator that reads it.

    The operators of one kind are counted in the order of the graph: the fourth aten::conv2d gives `conv2d_3.weight` and
    `conv2d_3.bias`. A constant inside a list argument gets its place in the list (or its name in PyTorch's recurrent
    layers: `lstm_0.weight_ih_l0`).

    Args:
        graph: an inlined graph.

    Returns:
        Graph value name -> name.
    """
    names: dict[str, ConstantName] = {}
    counts: Counter[str] = Counter()
    for node in _walk(graph.nodes()):
        schema = node.schema()
        if not schema.startswith("aten::"):
            continue
        kind = node.kind().removeprefix("aten::").strip("_")
        module = f"{kind}_{counts[kind]}"
        counts[kind] += 1
        for formal, value in zip(parse_schema(schema).arguments, node.inputs(), strict=False):
            for argument, constant in _find_constants(kind, formal.name, value, node):
                names.setdefault(constant.debugName(), ConstantName(module, argument))
    return names


def _walk(nodes: Iterable[Any]) -> Iterator[Any]:
    for node in nodes:
        yield node
        for block in node.blocks():
            yield from _walk(block.nodes())


def _find_constants(kind: str, argument: str, value: Any, consumer: Any) -> Iterator[tuple[str, Any]]:
    node = value.node()
    if node.kind() == "prim::Constant" and isinstance(value.toIValue(), Tensor):
        yield argument, value
    if node.kind() == "prim::ListConstruct":
        for position, item in enumerate(node.inputs()):
            if item.node().kind() == "prim::Constant" and isinstance(item.toIValue(), Tensor):
                yield _name_item(kind, argument, position, consumer), item


def _name_item(kind: str, argument: str, position: int, consumer: Any) -> str:
    if kind not in RECURRENT or argument != "params":
        return f"{argument}.{position}"
    formals = [formal.name for formal in parse_schema(consumer.schema()).arguments]
    given = dict(zip(formals, consumer.inputs(), strict=True))
    has_biases, bidirectional = given["has_biases"].toIValue(), given["bidirectional"].toIValue()
    per_cell = 4 if has_biases else 2
    cell, part = divmod(position, per_cell)
    layer, direction = divmod(cell, 2 if bidirectional else 1)
    return ("weight_ih", "weight_hh", "bias_ih", "bias_hh")[part] + f"_l{layer}" + ("_reverse" if direction else "")
