"""Which of a file's outputs are read, and in which order: text is left out, and class numbers come after scores."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto

CLASSICAL = "ai.onnx.ml"
FLOATS = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16})


@dataclass(frozen=True)
class Part:
    """The part of a graph that its numeric outputs need; `unread` are the initializers that only its text needs."""

    nodes: Sequence[NodeProto]
    outputs: Sequence[ValueInfoProto]
    unread: frozenset[str] = frozenset()


def find_numeric_part(graph: GraphProto) -> Part:
    """Return the graph without outputs that are text (names of classes), and without what only these need.

    A graph whose outputs are all text is returned whole: it is refused for its operators. In files of classical models,
    whose converters write the label first, floating-point outputs and maps of scores come first.
    """
    outputs = list(graph.output)
    if any(node.domain == CLASSICAL for node in graph.node):
        outputs.sort(key=_is_label)
    kept = [entry for entry in outputs if not _is_text(entry)]
    if not kept or len(kept) == len(outputs):
        return Part(graph.node, outputs)
    needed = {entry.name for entry in kept}
    nodes = []
    for node in reversed(graph.node):
        if not needed.isdisjoint(node.output):
            nodes.append(node)
            needed.update(_find_reads(node))
    return Part(nodes[::-1], kept, frozenset(tensor.name for tensor in graph.initializer if tensor.name not in needed))


def _is_text(entry: ValueInfoProto) -> bool:
    return entry.type.tensor_type.elem_type == TensorProto.STRING


def _is_label(entry: ValueInfoProto) -> bool:
    return entry.type.HasField("tensor_type") and entry.type.tensor_type.elem_type not in FLOATS


def _find_reads(node: NodeProto) -> Iterator[str]:
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from _find_reads(inner)
        yield from (entry.name for entry in attribute.g.output)
