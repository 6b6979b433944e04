"""What the ONNX standard says of a node: domains, opsets, attribute references, well-formedness."""

from collections.abc import Iterable, Mapping

import onnx.checker
import onnx.defs
from onnx import AttributeProto, NodeProto, OperatorSetIdProto

CHECKED_DOMAINS = {"", "ai.onnx.ml"}


def is_text(*values: object) -> bool:
    """Whether every value is text: the parser hands on what is no UTF-8 as bytes."""
    return all(isinstance(value, str) for value in values)


def plain_domain(domain: str) -> str:
    """Return the domain with ONNX's own written as the empty string."""
    return "" if domain == "ai.onnx" else domain


def read_opsets(imports: Iterable[OperatorSetIdProto]) -> dict[str, int]:
    """Return opset by plain domain."""
    return {plain_domain(entry.domain): entry.version for entry in imports}


def fill_attributes(node: NodeProto, given: Mapping[str, AttributeProto] | None) -> NodeProto:
    """Return the node of a function body with its attribute references replaced by the caller's attributes."""
    if given is None or not any(entry.ref_attr_name for entry in node.attribute):
        return node
    filled = NodeProto()
    filled.CopyFrom(node)
    del filled.attribute[:]
    for entry in node.attribute:
        if not entry.ref_attr_name:
            filled.attribute.append(entry)
        elif entry.ref_attr_name in given:
            filled.attribute.add().CopyFrom(given[entry.ref_attr_name])
            filled.attribute[-1].name = entry.name
    return filled


class NodeChecker:
    """Holds nodes against their schemas: numbers of inputs and outputs, names and types of attributes."""

    def __init__(self, ir_version: int) -> None:
        self.ir_version = ir_version
        self._contexts: dict[tuple[tuple[str, int], ...], onnx.checker.C.CheckerContext] = {}

    def find_problem(self, node: NodeProto, domain: str, opsets: Mapping[str, int]) -> str:
        """Return what is wrong with the node, or the empty string; nodes with graphs inside and foreign domains pass."""
        nested = any(entry.type in {AttributeProto.GRAPH, AttributeProto.GRAPHS} for entry in node.attribute)
        if nested or domain not in CHECKED_DOMAINS or not onnx.defs.has(node.op_type, opsets[domain], domain):
            return ""
        try:
            onnx.checker.check_node(node, self._find_context(opsets))
        except onnx.checker.ValidationError as error:
            return str(error).strip().split("\n")[0]
        return ""

    def _find_context(self, opsets: Mapping[str, int]) -> onnx.checker.C.CheckerContext:
        key = tuple(sorted(opsets.items()))
        if key not in self._contexts:
            context = onnx.checker.C.CheckerContext()
            context.ir_version = self.ir_version
            context.opset_imports = dict(opsets)
            self._contexts[key] = context
        return self._contexts[key]
