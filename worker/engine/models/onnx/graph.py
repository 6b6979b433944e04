"""From an ONNX graph to steps: names made unique, local functions inlined, attributes read, faults collected."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import torch
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto
from torch import Tensor

from schemas.errors import Fault, ModelRefused
from worker.engine.models.onnx.archive import RefusedTensorError, TensorReader
from worker.engine.models.onnx.attributes import read_attributes
from worker.engine.models.onnx.faults import Faults, Missing
from worker.engine.models.onnx.names import Names
from worker.engine.models.onnx.operators import TABLE
from worker.engine.models.onnx.operators.refused import REFUSED
from worker.engine.models.onnx.operators.small_floats import SMALL
from worker.engine.models.onnx.outputs import find_numeric_part
from worker.engine.models.onnx.registry import NEWEST_OPSET, OLDEST_OPSET, Node, Operator, UncoveredError
from worker.engine.models.onnx.scopes import read_scope
from worker.engine.models.onnx.standard import NodeChecker, fill_attributes, is_text, plain_domain, read_opsets
from worker.engine.models.onnx.tensors import DTYPES, NARROW, NarrowType, TensorError, name_dtype
from worker.engine.models.program import OMITTED, Block, InputSpec, Step

MAX_NODES = 100_000
MAX_DEPTH = 32
"""Graphs inside graphs and functions inside functions."""

PASS = GraphProto(input=[ValueInfoProto(name="value")], output=[ValueInfoProto(name="value")])
"""An optional graph that is not given."""

Origin = Literal["initializer", "constant"]


@dataclass(frozen=True)
class Stored:
    """A tensor that the file stores, and whether it stands among the initializers or in a Constant node.

    narrow: the type of integers of less than a byte.
    """

    tensor: Tensor
    origin: Origin
    narrow: NarrowType | None = None


@dataclass
class Graph:
    """A file's content as steps over unique names; `operators`, `nodes` and `scopes` are keyed by step name."""

    inputs: tuple[InputSpec, ...] = ()
    outputs: tuple[str, ...] = ()
    output_types: tuple[torch.dtype | None, ...] = ()
    """The types that the file declares, None where it does not."""
    steps: tuple[Step, ...] = ()
    stored: dict[str, Stored] = field(default_factory=dict)
    operators: dict[str, Operator] = field(default_factory=dict)
    nodes: dict[str, tuple[NodeProto, int]] = field(default_factory=dict)
    """The file's node behind a step and the opset of its domain; none for nodes with graphs inside, and none for those whose
    integers are floats here."""
    scopes: dict[str, str] = field(default_factory=dict)
    unsupported: tuple[Fault, ...] = ()
    """Operators outside the table; their nodes have no steps."""


@dataclass(frozen=True)
class Context:
    """What surrounds a node. `path` names the graph it stands in, the same for every call of a function."""

    names: Names
    opsets: Mapping[str, int]
    attributes: Mapping[str, AttributeProto] | None = None
    path: tuple[str, ...] = ()
    scope: str | None = None
    depth: int = 0


def read_graph(model: ModelProto, reader: TensorReader, max_nodes: int = MAX_NODES) -> Graph:
    """Read the model's main graph and everything inside it.

    Args:
        model: a parsed model.
        reader: reads its stored tensors.
        max_nodes: the most nodes that are read, calls of functions counted with all that they stand for.

    Returns:
        Inputs, outputs, steps and stored tensors.

    Raises:
        ModelUnreadable: the graph contradicts itself.
        ModelRefused: a stored tensor must not be read, or a limit is passed.
    """
    return _GraphReader(model, reader, max_nodes).read()


class _GraphReader:
    def __init__(self, model: ModelProto, reader: TensorReader, max_nodes: int) -> None:
        self.model = model
        self.reader = reader
        self.max_nodes = max_nodes
        self.faults = Faults()
        self.checker = NodeChecker(model.ir_version)
        self.graph = Graph()
        self.functions = {(plain_domain(f.domain), f.name, f.overload): f for f in model.functions}
        self.shared: dict[tuple[str, ...], str] = {}
        self.names: dict[str, int] = {}
        self.small: set[str] = set()
        self.nodes = 0

    def read(self) -> Graph:
        proto = self.model.graph
        opsets = read_opsets(self.model.opset_import)
        opset = opsets.get("", NEWEST_OPSET)
        if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
            expected = f"opset {OLDEST_OPSET} to {NEWEST_OPSET}"
            _refuse("the model's opset is outside the supported range", expected, str(opset), "export the model again within it")
        stored = {tensor.name for tensor in proto.initializer}
        taken = stored | {entry.name for entry in proto.input} | {name for node in proto.node for name in node.output}
        context = Context(Names(dict.fromkeys(taken - {OMITTED}, 1), main=True), opsets)
        part = find_numeric_part(proto)
        self._read_initializers(proto, context, part.unread)
        self._check_unique("function", [f"{f.domain}.{f.name}:{f.overload}" for f in self.model.functions])
        self._check_unique("graph input", [entry.name for entry in proto.input])
        inputs = [self._read_input(entry, context) for entry in proto.input if entry.name not in context.names.known]
        self.graph.steps = self._read_nodes(part.nodes, context)
        self.graph.inputs = tuple(entry for entry in inputs if entry is not None)
        self.graph.outputs = tuple(self._find(entry.name, context, "the graph's output") for entry in part.outputs)
        self.graph.output_types = tuple(DTYPES.get(entry.type.tensor_type.elem_type) for entry in part.outputs)
        self.faults.raise_any()
        self.graph.unsupported = self.faults.list_missing()
        return self.graph

    # names and faults

    def _complain(self, what: str, where: str, expected: str, got: str) -> None:
        advice = "check that the file was written completely and passes onnx.checker"
        self.faults.unreadable.append(Fault(what, where, expected, got, advice))

    def _check_unique(self, kind: str, names: Sequence[str]) -> None:
        for name in sorted(name for name, count in Counter(names).items() if count > 1):
            self._complain(f"a {kind} is defined a second time", "/model", "each name once", repr(name))

    def _find(self, name: str, context: Context, reader: str) -> str:
        found = context.names.find(name) if is_text(name) else None
        if found is None:
            self._complain(
                f"{reader} reads a value that nothing computes", reader, "an input, a tensor or a node's output", repr(name)
            )
        return found or OMITTED

    def _define(self, name: str, context: Context, writer: str) -> str:
        if not is_text(name):
            self._complain(f"{writer} has a name that is no text", "/model", "UTF-8", repr(name))
            return OMITTED
        unique = context.names.define(name)
        if unique is None:
            self._complain(f"{writer} writes a value a second time", writer, "each name written once", repr(name))
        return unique or OMITTED

    # inputs and stored tensors

    def _read_input(self, entry: ValueInfoProto, context: Context) -> InputSpec | None:
        name = self._define(entry.name, context, "a graph input")
        kind = entry.type.optional_type.elem_type if entry.type.HasField("optional_type") else entry.type
        optional = entry.type.HasField("optional_type")
        if not kind.HasField("tensor_type"):
            return InputSpec(name, None, None, optional)
        code = kind.tensor_type.elem_type
        if code not in DTYPES:
            what = f"input {name!r} has a type that is not supported"
            advice = (
                "encode the text as numbers before the model" if code == TensorProto.STRING else "give the input a wider type"
            )
            self.faults.refused.append(Fault(what, f"/model/inputs/{name}", "numbers", name_dtype(code), advice))
            return None
        shape = None
        if kind.tensor_type.HasField("shape"):
            shape = tuple(size.dim_value if size.HasField("dim_value") else None for size in kind.tensor_type.shape.dim)
        if DTYPES[code] in SMALL:
            self.small.add(name)
        return InputSpec(name, DTYPES[code], shape, optional)

    def _read_initializers(self, graph: GraphProto, context: Context, unread: frozenset[str] = frozenset()) -> None:
        for tensor in graph.initializer:
            if tensor.name in unread:
                continue
            self._store(
                tensor.name, partial(self.reader.read, tensor), "initializer", context, narrow=NARROW.get(tensor.data_type)
            )
        for sparse in graph.sparse_initializer:
            name = self._define(sparse.values.name, context, "an initializer")
            what, where = f"tensor {name!r} is sparse", f"/model/initializers/{name}"
            self.faults.refused.append(Fault(what, where, "a dense tensor", "a sparse one", "store the tensor densely"))

    def _store(
        self,
        name: str,
        read: Callable[[], Tensor],
        origin: Origin,
        context: Context,
        *,
        shared: bool = True,
        narrow: NarrowType | None = None,
    ) -> None:
        key = (*context.path, name)
        if context.path and shared and key in self.shared:
            context.names.known[name] = self.shared[key]  # a function's tensor is stored once, however often it is called
            return
        self.shared[key] = self._define(name, context, f"{origin} {name}")
        value = self._attempt(read, f"/model/{origin}s/{name}")
        if value is not None:
            self.graph.stored[self.shared[key]] = Stored(value, origin, narrow)

    def _attempt(self, read: Callable[[], Tensor], where: str) -> Tensor | None:
        try:
            return read()
        except RefusedTensorError as error:
            self.faults.refused.append(error.fault)
        except TensorError as error:
            if error.refused:
                advice = "audit the floating-point model, before quantisation"
                expected = "float32, float64, float16, bfloat16, an integer or bool"
                self.faults.refused.append(Fault(str(error), where, expected, "", advice))
            else:
                self._complain(str(error), where, "data that fills the declared shape", "")
        return None

    # nodes

    def _read_nodes(self, nodes: Iterable[NodeProto], context: Context) -> tuple[Step, ...]:
        if context.depth > MAX_DEPTH:
            _refuse(
                "graphs or functions are nested too deeply", f"at most {MAX_DEPTH} levels", "more", "inline the innermost ones"
            )
        steps: list[Step] = []
        for node in nodes:
            self.nodes += 1
            if self.nodes > self.max_nodes:
                _refuse("the model has too many nodes", f"at most {self.max_nodes}", "more", "split the model")
            steps += self._read_node(node, context)
        return tuple(steps)

    def _read_node(self, node: NodeProto, context: Context) -> Sequence[Step]:
        if not is_text(node.name, node.op_type, node.domain, *(entry.name for entry in node.attribute)):
            self._complain("a node has a name that is no text", "/model", "UTF-8", repr((node.name, node.op_type, node.domain)))
            return ()
        filled = fill_attributes(node, context.attributes)
        domain = plain_domain(node.domain)
        function = self.functions.get((domain, node.op_type, node.overload))
        if function is not None:
            return self._inline(filled, function, context)
        if domain == "" and node.op_type == "Constant":
            self._read_constant(filled, context, shared=filled is node)
            return ()
        return self._read_step(filled, domain, context)

    def _inline(self, node: NodeProto, function: FunctionProto, context: Context) -> Sequence[Step]:
        names = Names(context.names.taken)
        given = [self._find(name, context, f"node {node.name}") for name in node.input]
        names.known.update(zip(function.input, (*given, *[OMITTED] * len(function.input)), strict=False))
        attributes = {entry.name: entry for entry in (*function.attribute_proto, *node.attribute)}
        path = ("function", function.domain, function.name, function.overload)
        scope = read_scope(node)
        opsets = read_opsets(function.opset_import)
        inner = Context(names, opsets, attributes, path, context.scope if scope is None else scope, context.depth + 1)
        steps = list(self._read_nodes(function.node, inner))
        for formal, actual in zip(function.output, node.output, strict=False):
            if actual != OMITTED:
                found = self._find(formal, inner, f"function {function.name}")
                steps.append(self._make_alias(found, self._define(actual, context, f"node {node.name}")))
        return steps

    def _make_alias(self, source: str, target: str) -> Step:
        identity = self._find_operator("Identity", "", NEWEST_OPSET)
        name = self._name_step(f"Identity_{target}")
        self.graph.operators[name] = identity
        return Step(name, identity.title, identity.function, (source,), (target,))

    def _read_constant(self, node: NodeProto, context: Context, *, shared: bool) -> None:
        if len(node.output) != 1 or len(node.attribute) != 1:
            self._complain(f"Constant {node.name} is malformed", f"node {node.name}", "one attribute and one output", "")
            return
        output, entry = node.output[0], node.attribute[0]
        if entry.name == "value":
            narrow = NARROW.get(entry.t.data_type)
            self._store(output, lambda: self.reader.read(entry.t), "constant", context, shared=shared, narrow=narrow)
        elif entry.name in {"value_float", "value_floats", "value_int", "value_ints"}:
            values: Any = {"value_float": entry.f, "value_int": entry.i}.get(entry.name, list(entry.floats or entry.ints))
            dtype = torch.float32 if "float" in entry.name else torch.int64
            self._store(output, lambda: torch.tensor(values, dtype=dtype), "constant", context, shared=shared)
        else:
            self._define(output, context, f"node {node.name}")
            reason = f"holds a {entry.name.removeprefix('value_')} value, which is not supported"
            self.faults.add_missing(Missing("", "Constant", context.opsets.get("", 0), reason), node.name or output)

    def _read_step(self, node: NodeProto, domain: str, context: Context) -> Sequence[Step]:
        name = self._name_step(node.name or node.op_type)
        inputs = tuple(self._find(entry, context, f"node {name}") for entry in node.input)
        opset = context.opsets.get(domain, 0)
        steps: Sequence[Step] = ()
        try:
            operator = self._find_operator(node.op_type, domain, opset)
            problem = self.checker.find_problem(node, domain, context.opsets)
            if problem:
                self._complain(f"node {name} is malformed: {problem}", f"node {name}", f"{node.op_type} as ONNX defines it", "")
            else:
                steps = (self._build_step(name, node, operator, inputs, context),)
        except UncoveredError as error:
            self.faults.add_missing(Missing(domain, node.op_type, opset, str(error)), name)
        except (KeyError, ValueError, IndexError, TypeError) as error:
            got = f"{type(error).__name__}: {error}"
            self._complain(
                f"node {name} has impossible attributes", f"node {name}", f"{node.op_type} as its domain defines it", got
            )
        outputs = tuple(self._define(entry, context, f"node {name}") for entry in node.output)
        if any(self._is_small(step) for step in steps):
            self.small.update(outputs)
        return tuple(replace(step, outputs=outputs) for step in steps)

    def _is_small(self, step: Step) -> bool:
        """Whether the step hands eight-bit floats on, which can be converted and rearranged and nothing else."""
        if step.operator == "Cast":
            return step.attributes["dtype"] in SMALL
        if self.graph.operators[step.name].widens:
            return False
        return not self.small.isdisjoint(step.inputs[1:] if step.operator == "CastLike" else step.inputs)

    @staticmethod
    def _find_operator(name: str, domain: str, opset: int) -> Operator:
        operator = TABLE.find(domain, name, opset)
        if operator is None:
            known = TABLE.knows(domain, name)
            message = "is supported at other opsets only" if known else REFUSED.get((domain, name), ("is not supported",))[0]
            raise UncoveredError(message)
        return operator

    def _build_step(self, name: str, node: NodeProto, operator: Operator, inputs: tuple[str, ...], context: Context) -> Step:
        attributes = read_attributes(node, lambda tensor: self._read_attribute_tensor(tensor, name))
        form = Node(attributes, tuple(node.input), tuple(node.output), context.opsets.get(plain_domain(node.domain), 0))
        arguments = operator.read_arguments(form)
        if operator.learn is not None:
            inputs = (*inputs, *self._store_learned(name, operator.learn(form), context))
        if not (operator.relays or operator.widens) and not self.small.isdisjoint(inputs):
            message = "computes with eight-bit floats, which is not supported"
            raise UncoveredError(message)
        graphs = {entry.name: entry.g for entry in node.attribute if entry.type == AttributeProto.GRAPH}
        given = {**dict.fromkeys(operator.blocks, PASS), **graphs} if operator.optional_blocks else graphs
        blocks = tuple(self._read_block(given[label], context, f"{node.output[0]}.{label}") for label in operator.blocks)
        scope = read_scope(node)
        if scope is not None or context.scope is not None:
            self.graph.scopes[name] = scope if scope is not None else context.scope or ""
        self.graph.operators[name] = operator
        if not graphs and operator.is_node:
            self.graph.nodes[name] = (node, form.opset)
        function = operator.choose_function(len(node.output))
        facts = {"shape_only": operator.shape_only, "dynamic_shape": operator.dynamic_shape}
        return Step(name, operator.title, function, inputs, (), arguments, blocks, **facts, like=operator.like)

    def _store_learned(self, node: str, learned: Mapping[str, Tensor], context: Context) -> list[str]:
        """Store what a node learned and keeps in attributes; return its names."""
        names = [self._define(f"{node}.{label}", context, f"node {node}") for label in learned]
        self.graph.stored.update(
            {name: Stored(value, "initializer") for name, value in zip(names, learned.values(), strict=True)}
        )
        return names

    def _read_attribute_tensor(self, tensor: TensorProto, node: str) -> Tensor:
        value = self._attempt(lambda: self.reader.read(tensor), f"node {node}")
        return torch.empty(0) if value is None else value  # the fault is noted and will be raised

    def _read_block(self, graph: GraphProto, context: Context, label: str) -> Block:
        names = Names(context.names.taken, outer=context.names)
        inner = replace(context, names=names, path=(*context.path, label), depth=context.depth + 1)
        inputs = tuple(self._define(entry.name, inner, f"graph {label}") for entry in graph.input)
        self._read_initializers(graph, inner)
        steps = self._read_nodes(graph.node, inner)
        return Block(inputs, steps, tuple(self._find(entry.name, inner, f"graph {label}") for entry in graph.output))

    def _name_step(self, wanted: str) -> str:
        n = self.names.get(wanted, 0) + 1
        self.names[wanted] = n
        if n == 1:
            return wanted
        return self._name_step(f"{wanted}_{n}")


def _refuse(what: str, expected: str, got: str, advice: str) -> None:
    raise ModelRefused(Fault(what, "/model", expected, got, advice))
