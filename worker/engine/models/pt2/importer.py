"""Turn the nodes of an exported graph into drafts of steps."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from schemas.errors import Fault, ModelUnreadable
from worker.engine.models.aten import operators
from worker.engine.models.aten.allowlist import describe_unsupported
from worker.engine.models.aten.builtins import make_list, run_if
from worker.engine.models.aten.devices import DeviceFollower
from worker.engine.models.aten.draft import Draft, DraftBlock
from worker.engine.models.aten.operators import Given, Read
from worker.engine.models.aten.state import State
from worker.engine.models.aten.training import is_training_call
from worker.engine.models.pt2.document import Argument, Branch, Foreign, Graph, Node, Several
from worker.engine.models.pt2.quantised import OPERATORS, check_arguments
from worker.engine.models.pt2.symbols import CHECKS, SIZE_FUNCTIONS, TENSOR_QUESTIONS, VALUE_QUESTIONS, WITHOUT_EFFECT

ATEN = re.compile(r"torch\.ops\.aten\.(\w+)\.(\w+)")
HIGHER_ORDER = "torch.ops.higher_order."

Scope = dict[str, Given | Read]
"""Name in a graph -> the value, or the name under which steps find it."""


@dataclass(frozen=True)
class Arrange:
    """Makes a list of known entries and of values read."""

    entries: tuple[Any, ...]
    places: tuple[int, ...]

    def __call__(self, *values: Any) -> list[Any]:
        """Return the list with the values at their places."""
        made = list(self.entries)
        for place, value in zip(self.places, values, strict=True):
            made[place] = value
        return made


@dataclass(frozen=True)
class TakeOnly:
    """Calls an operator that returns a list of one, for a graph that names its one entry."""

    function: Callable[..., Sequence[Any]]

    def __call__(self, /, *values: Any, **attributes: Any) -> Any:
        """Return the entry."""
        (entry,) = self.function(*values, **attributes)
        return entry


@dataclass
class Frame:
    """A graph that is being drafted: what its names stand for, the prefix of the names that steps get, the drafts so far."""

    scope: Scope
    prefix: str = ""
    drafts: list[Draft] = field(default_factory=list)


class Importer:
    """Goes over graphs in order; a name that no earlier node made is a fault of the file."""

    def __init__(self, state: State, follower: DeviceFollower) -> None:
        self.state = state
        self.unsupported: Counter[str] = Counter()
        self.training: list[str] = []
        self.containers: set[str] = set()
        self.rounds = False
        self._follower = follower
        self._counts: Counter[str] = Counter()

    def draft(self, graph: Graph, frame: Frame) -> list[Draft]:
        """Return the drafts of a graph; the frame learns what its names stand for."""
        for node in graph.nodes:
            self._draft_node(node, frame)
        return frame.drafts

    def describe_unsupported(self) -> tuple[Fault, ...]:
        """Return one fault for each operator outside the table that the graph reached, with its count."""
        counts = sorted(self.unsupported.items())
        return tuple(describe_unsupported(kind, count) for kind, count in counts)

    def resolve(self, argument: Argument, scope: Scope, node: str) -> Given | Read:
        """Return what an argument stands for: a known value, or the name under which steps find it."""
        if isinstance(argument, Read):
            if argument.name not in scope:
                advice = "export and save the model again"
                what = f"{node} reads {argument.name!r}, which nothing before it makes"
                raise ModelUnreadable(Fault(what, "graph", "nodes in the order of execution", argument.name, advice))
            found = scope[argument.name]
            return Read(self._follower.follow(found.name), argument.is_float) if isinstance(found, Read) else found
        if isinstance(argument, Given):
            return argument
        kind = argument.kind if isinstance(argument, Foreign) else "a list or graph"
        self.unsupported[f"{node} with {kind}"] += 1
        return Given(None)

    def _draft_node(self, node: Node, frame: Frame) -> None:
        found = ATEN.fullmatch(node.target)
        for name in node.names:
            if name in frame.scope:
                raise ModelUnreadable(Fault("two values have one name", "graph", "each name once", name, "export again"))
        if found is not None and found[1] in WITHOUT_EFFECT:
            return
        function = find_function(node.target)
        if node.target in OPERATORS:
            self._draft_quantised(node, frame)
        elif found is not None and function is None:
            self._draft_operator(node, found[1], found[2].removesuffix("default"), frame)
        elif function is not None:
            kind = f"aten::{found[1]}" if found is not None else node.target.replace(".", "::")
            draft = self._emit(node, kind, function, self._read_all(node, frame), frame)
            draft.shape_only = found is not None and found[1] in TENSOR_QUESTIONS
            draft.from_values = found is not None and found[1] in VALUE_QUESTIONS
            draft.kept = found is not None and found[1] in CHECKS
        elif node.target.startswith(HIGHER_ORDER):
            self._draft_higher_order(node, frame)
        else:
            self._reject(node, frame)

    def _draft_quantised(self, node: Node, frame: Frame) -> None:
        names, read = check_arguments(node), self._read_all(node, frame)
        if read[0] in self.state.grids:  # stored integers that are weights: their values stand for what reads them back
            frame.scope.update(dict.fromkeys(node.names, Read(read[0])))
            return
        self.rounds = True
        self._emit(node, node.target.replace(".", "::"), operators.ByName(OPERATORS[node.target], names), read, frame)

    # Higher-order operators ----------------------------------------------------------------------------------------

    def _draft_higher_order(self, node: Node, frame: Frame) -> None:
        arguments = [argument for _, argument in node.inputs]
        match (node.target.removeprefix(HIGHER_ORDER), arguments):
            case ("cond", [Read() | Given() as condition, Branch() as yes, Branch() as no, (Several() | Given()) as operands]):
                self._draft_condition(node, condition, (yes.graph, no.graph), find_entries(operands), frame)
            case ("wrap_with_set_grad_enabled", [Given(), Branch(graph=graph), *operands]):
                self._inline(node, graph, operands, frame)
            case ("wrap_with_autocast", [Given(), Given(), Given(value=False), Given(), Branch(graph=graph), *operands]):
                self._inline(node, graph, operands, frame)
            case _:
                self._reject(node, frame)

    def _draft_condition(
        self,
        node: Node,
        condition: Given | Read,
        graphs: tuple[Graph, Graph],
        operands: Sequence[Argument],
        frame: Frame,
    ) -> None:
        blocks = []
        for place, graph in enumerate(graphs):
            label = f"{frame.prefix}{node.label}.{place}."
            inner = Frame(self._enter(node, graph, operands, frame), label)
            made = self.draft(graph, inner)
            found = [self.resolve(output, inner.scope, node.target) for output in graph.outputs]
            results = [self._name(value, f"{label}{position}") for position, value in enumerate(found)]
            blocks.append(DraftBlock([], made, results))
        read = self._name(self.resolve(condition, frame.scope, node.target), f"{frame.prefix}{node.label}.condition")
        draft = self._emit(node, "prim::If", run_if, [read], frame)
        draft.blocks = blocks
        draft.aliases = [(result, made) for block in blocks for result, made in zip(block.outputs, draft.outputs, strict=True)]

    def _inline(self, node: Node, graph: Graph, operands: Sequence[Argument], frame: Frame) -> None:
        """Put a graph in the place of its call. Where the model turned gradients off they are on: the loss depends on it."""
        inner = Frame(self._enter(node, graph, operands, frame), f"{frame.prefix}{node.label}.", frame.drafts)
        self.draft(graph, inner)
        for name, output in zip(node.names, graph.outputs, strict=True):
            frame.scope[name] = self.resolve(output, inner.scope, node.target)

    def _enter(self, node: Node, graph: Graph, operands: Sequence[Argument], frame: Frame) -> Scope:
        names = [formal.name for formal in graph.inputs if isinstance(formal, Read)]
        if len(names) != len(operands) or len(graph.outputs) != len(node.names):
            got = f"{len(operands)} operands, {len(node.names)} results"
            expected = f"{len(names)} operands, {len(graph.outputs)} results"
            raise ModelUnreadable(Fault(f"{node.target} does not fit its graph", "graph", expected, got, "export again"))
        return dict(zip(names, (self.resolve(operand, frame.scope, node.target) for operand in operands), strict=True))

    # Operators -----------------------------------------------------------------------------------------------------

    def _draft_operator(self, node: Node, name: str, overload: str, frame: Frame) -> None:
        kind = f"aten::{name}"
        dispatched = operators.find_dispatched(kind, overload)
        function = operators.find_tensor_operator(kind, overload)
        if dispatched is None or function is None or operators.has_output_argument(dispatched._schema):  # noqa: SLF001
            self._reject(node, frame)
            return
        schema = dispatched._schema  # noqa: SLF001 - what its arguments are called has no public name
        arguments = self._match(node, schema, frame)
        if is_training_call(schema, arguments):
            self.training.append(kind)
        call = operators.bind(function, schema, arguments)
        returns_list = len(schema.returns) == 1 and str(schema.returns[0].type).startswith("List[")
        if len(node.names) != len(schema.returns) and not returns_list:
            got = f"{len(node.names)} results"
            expected = f"{len(schema.returns)} results"
            raise ModelUnreadable(Fault(f"{node.target} has other results", "graph", expected, got, "export again"))
        called = TakeOnly(call.function) if returns_list and len(node.names) == 1 else call.function
        draft = self._emit(node, kind, called, list(call.inputs), frame)
        draft.attributes = call.attributes
        draft.dynamic_shape = operators.is_random(kind) or operators.is_value_shaped(kind, overload)
        given = [argument.name if isinstance(argument, Read) else "" for argument in arguments]
        results = [[made] for made in draft.outputs] if returns_list else [draft.outputs]
        pairs = [pair for made in results for pair in operators.find_aliases(schema, given, made)]
        draft.aliases = [pair for pair in pairs if all(pair)]
        if operators.is_in_place(schema) and given[0]:
            draft.writes = given[0]
            draft.functional = operators.find_functional(kind, overload)

    def _match(self, node: Node, schema: Any, frame: Frame) -> list[Given | Read]:
        """Return one argument per formal of the operator's schema, defaults included."""
        given = dict(node.inputs)
        formals = {formal.name: formal for formal in schema.arguments}
        missing = [name for name, formal in formals.items() if name not in given and not formal.has_default_value()]
        if missing or len(given) != len(node.inputs) or not set(given) <= set(formals):
            got = f"arguments {', '.join(name for name, _ in node.inputs) or 'none'}"
            raise ModelUnreadable(Fault(f"{node.target} has other arguments", "graph", str(schema), got, "export again"))
        return [
            self._read(given[name], node, frame) if name in given else Given(formal.default_value)
            for name, formal in formals.items()
        ]

    def _read(self, argument: Argument, node: Node, frame: Frame) -> Given | Read:
        if not isinstance(argument, Several):
            return self.resolve(argument, frame.scope, node.target)
        entries = [self.resolve(entry, frame.scope, node.target) for entry in argument.entries]
        places = tuple(place for place, entry in enumerate(entries) if isinstance(entry, Read))
        known = tuple(entry.value if isinstance(entry, Given) else None for entry in entries)
        if not places:
            return Given(list(known))
        names = [entry.name for entry in entries if isinstance(entry, Read)]
        function = make_list if len(places) == len(entries) else Arrange(known, places)
        name = f"%{frame.prefix}list_{self._counts['list']}"
        self._counts["list"] += 1
        self.containers.add(name)
        aliases = [(part, name) for part in names]
        frame.drafts.append(Draft(name.removeprefix("%"), "prim::ListConstruct", function, names, [name], aliases=aliases))
        return Read(name)

    def _read_all(self, node: Node, frame: Frame) -> list[str]:
        label = f"{frame.prefix}{node.label}"
        read = [self._read(argument, node, frame) for _, argument in node.inputs]
        return [self._name(value, f"{label}.{place}") for place, value in enumerate(read)]

    def _name(self, value: Given | Read, label: str) -> str:
        """Return the name under which steps find a value; a known one becomes a constant of the program."""
        if isinstance(value, Read):
            return value.name
        name = f"#{label}"  # what steps make begins with another letter
        while name in self.state.constants:
            name += "'"
        self.state.constants[name] = value.value
        return name

    def _emit(
        self,
        node: Node,
        kind: str,
        function: Callable[..., Any],
        inputs: list[str],
        frame: Frame,
    ) -> Draft:
        outputs = [f"%{frame.prefix}{name}" if name else "" for name in node.names]
        frame.scope.update({name: Read(made) for name, made in zip(node.names, outputs, strict=True) if name})
        label = f"{frame.prefix}{node.label}"
        draft = Draft("/".join(part for part in (node.module, label) if part), kind, function, inputs, outputs)
        frame.drafts.append(draft)
        return draft

    def _reject(self, node: Node, frame: Frame) -> None:
        self.unsupported[node.target] += 1
        frame.scope.update({name: Read(f"%{frame.prefix}{name}") for name in node.names})


def find_function(target: str) -> Callable[..., Any] | None:
    """Return what computes a target that is no tensor operator: size arithmetic, questions to tensors, checks."""
    found = ATEN.fullmatch(target)
    if found is None:
        return SIZE_FUNCTIONS.get(target)
    for table in (TENSOR_QUESTIONS, VALUE_QUESTIONS, CHECKS):
        if found[1] in table:
            return table[found[1]]
    return None


def find_entries(operands: Argument) -> Sequence[Argument]:
    """Return the entries of a list of operands."""
    if isinstance(operands, Several):
        return operands.entries
    known: Iterable[Any] = operands.value if isinstance(operands, Given) and isinstance(operands.value, list) else ()
    return [Given(value) for value in known]
