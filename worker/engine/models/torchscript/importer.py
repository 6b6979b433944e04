"""Walk the inlined graph of a TorchScript module, operator by operator, and draft the steps of a program."""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from schemas.errors import Fault, ModelRefused, UnsupportedOperator
from worker.engine.models.aten import operators
from worker.engine.models.aten.allowlist import describe_unsupported
from worker.engine.models.aten.builtins import (
    BUILTINS,
    FROM_VALUES,
    IGNORED,
    IN_PLACE_BUILTINS,
    make_dict,
    make_list,
    make_tuple,
    run_if,
    run_loop,
    unpack,
)
from worker.engine.models.aten.devices import DeviceFollower
from worker.engine.models.aten.draft import Draft, DraftBlock
from worker.engine.models.aten.operators import Given, Read
from worker.engine.models.aten.state import State, check_dense
from worker.engine.models.aten.training import is_training_call
from worker.engine.models.torchscript.folding import fold
from worker.engine.models.torchscript.naming import ConstantName, name_constants
from worker.engine.models.torchscript.slots import (
    CONTAINER_TYPES,
    Known,
    Named,
    Owner,
    Slot,
    Stored,
    find_parts,
    holds_tensor,
    may_share,
)


class Importer:
    """Turns graph nodes into drafts; holds what every graph value is."""

    def __init__(self, module: Any, graph: Any, state: State) -> None:
        self.state = state
        self.slots: dict[str, Slot] = {}
        self.unsupported: Counter[str] = Counter()
        self.training: list[str] = []
        self.reads_training_mode = False
        self.containers: set[str] = set()
        self._module = module
        self._constant_names = name_constants(graph)
        self._counts: Counter[str] = Counter()
        self._follower = DeviceFollower(state)
        self.prelude = self._follower.drafts
        self._lists_change = any(graph.findNode(kind) is not None for kind in IN_PLACE_BUILTINS)
        self._alias_db = graph.alias_db() if self._lists_change else None
        self._structural: dict[str, Callable[[Any, list[Draft]], None]] = {
            "prim::Constant": self._take_constant,
            "prim::GetAttr": self._take_attribute,
            "prim::ListConstruct": self._construct,
            "prim::TupleConstruct": self._construct,
            "prim::DictConstruct": self._construct,
            "prim::ListUnpack": self._unpack,
            "prim::TupleUnpack": self._unpack,
            "prim::TupleIndex": self._index,
            "prim::unchecked_cast": self._pass_through,
            "prim::Uninitialized": self._take_nothing,
            "prim::If": self._branch,
            "prim::Loop": self._loop,
        }

    def draft(self, nodes: Iterable[Any]) -> list[Draft]:
        """Return the drafts of a list of nodes."""
        drafts: list[Draft] = []
        for node in nodes:
            handle = self._structural.get(node.kind(), self._operate)
            handle(node, drafts)
        return drafts

    def check(self) -> None:
        """Refuse the model if its graph reached operators outside the table.

        Raises:
            UnsupportedOperator: naming every one of them with its count.
        """
        if self.unsupported:
            counts = sorted(self.unsupported.items())
            raise UnsupportedOperator(*(describe_unsupported(kind, count) for kind, count in counts))

    def read(self, value: Any) -> str:
        """Return the name under which steps find a graph value; a known one becomes a constant of the program."""
        slot = self.slots[value.debugName()]
        if isinstance(slot, Named):
            return slot.name
        if isinstance(slot, Stored):
            name = self.store(slot, value.debugName())
            self.slots[value.debugName()] = Named(name)
            return name
        if isinstance(slot, Owner):
            raise ModelRefused(
                Fault(
                    "the graph passes a whole object to an operator",
                    where=slot.path,
                    expected="tensors and numbers",
                    got=str(value.type()),
                    advice="export a forward of plain tensor operations",
                )
            )
        if isinstance(slot.value, torch.device):
            return operators.DEVICE
        name = f"%{value.debugName()}"
        self.state.constants[name] = slot.value
        return name

    def store(self, slot: Stored, label: str) -> str:
        """Sort a constant tensor of the graph into the state; return the name under which steps find it."""
        faults = check_dense(f"constant %{label}", slot.tensor)
        if faults:
            raise ModelRefused(*faults)
        given = self._constant_names.get(label, ConstantName("constant", label))
        return self._follower.follow(self.state.add_constant(f"{given.module}.{given.argument}", given.argument, slot.tensor))

    # Structure ----------------------------------------------------------------------------------------------------

    def _take_constant(self, node: Any, _drafts: list[Draft]) -> None:
        value = node.output()
        content = value.toIValue()
        self.slots[value.debugName()] = Stored(content.detach()) if isinstance(content, Tensor) else Known(content)

    def _take_attribute(self, node: Any, drafts: list[Draft]) -> None:
        value = node.output()
        owner = self.slots[node.input().debugName()]
        if not isinstance(owner, Owner):
            self._reject(node)
            return
        name = node.s("name")
        path = f"{owner.path}.{name}" if owner.path else name
        content = owner.target.getattr(name)
        self.reads_training_mode |= name == "training"
        if isinstance(content, torch.ScriptObject | torch._C.ScriptModule):  # noqa: SLF001 - the type of submodules
            self.slots[value.debugName()] = Owner(content, path)
        elif isinstance(content, Tensor):
            self.slots[value.debugName()] = Named(self._find_stored(path, content))
        elif isinstance(content, list | tuple) and content and all(isinstance(part, Tensor) for part in content):
            # nn.LSTM keeps its parameters in a list as well, and scripted files read them from there.
            names = [self._find_stored(f"{path}.{position}", part) for position, part in enumerate(content)]
            draft = self._emit(node, drafts, make_list if isinstance(content, list) else make_tuple, names)
            draft.aliases = [(stored, draft.outputs[0]) for stored in names]
            self.slots[value.debugName()] = Named(draft.outputs[0], tuple(map(Named, names)))
        else:
            self.slots[value.debugName()] = Known(content)

    def _find_stored(self, path: str, tensor: Tensor) -> str:
        stored = self.state.find_name(tensor.detach())
        if stored is None:
            faults = check_dense(path, tensor)
            if faults:
                raise ModelRefused(*faults)
            self.state.add_attribute(path, tensor.detach(), is_parameter=False)
            stored = path
        return self._follower.follow(stored)

    def _construct(self, node: Any, drafts: list[Draft]) -> None:
        value = node.output()
        slots = tuple(self.slots[given.debugName()] for given in node.inputs())
        function = {"prim::ListConstruct": make_list, "prim::TupleConstruct": make_tuple}.get(node.kind(), make_dict)
        written = self._alias_db is not None and self._alias_db.has_writers(value)
        known = [slot.value for slot in slots if isinstance(slot, Known)]
        if len(known) == len(slots) and not written:
            self.slots[value.debugName()] = Known(function(*known))
            return
        if any(isinstance(slot, Owner) for slot in slots):
            self.slots[value.debugName()] = Named(f"%{value.debugName()}", slots)
            return
        self._emit(node, drafts, function, [self.read(given) for given in node.inputs()], contains=True)
        if written:
            return
        if node.kind() != "prim::DictConstruct":
            self.slots[value.debugName()] = Named(f"%{value.debugName()}", slots)
        elif all(isinstance(slot, Known) for slot in slots[0::2]):
            keys = [str(slot.value) for slot in slots[0::2] if isinstance(slot, Known)]
            self.slots[value.debugName()] = Named(f"%{value.debugName()}", entries=tuple(zip(keys, slots[1::2], strict=True)))

    def _unpack(self, node: Any, drafts: list[Draft]) -> None:
        parts = find_parts(self.slots[node.input().debugName()])
        if parts is None:
            self._emit(node, drafts, unpack, [self.read(node.input())], contains=True)
            return
        for output, part in zip(node.outputs(), parts, strict=True):
            self.slots[output.debugName()] = part

    def _index(self, node: Any, drafts: list[Draft]) -> None:
        container, position = node.inputs()
        parts, index = find_parts(self.slots[container.debugName()]), self.slots[position.debugName()]
        if parts is None or not isinstance(index, Known):
            self._emit(node, drafts, lambda values, at: values[at], [self.read(given) for given in node.inputs()], contains=True)
            return
        self.slots[node.output().debugName()] = parts[index.value]

    def _pass_through(self, node: Any, _drafts: list[Draft]) -> None:
        self.slots[node.output().debugName()] = self.slots[node.input().debugName()]

    def _take_nothing(self, node: Any, _drafts: list[Draft]) -> None:
        self.slots[node.output().debugName()] = Known(None)

    # Control flow -------------------------------------------------------------------------------------------------

    def _branch(self, node: Any, drafts: list[Draft]) -> None:
        condition = self.slots[node.input().debugName()]
        blocks = list(node.blocks())
        if isinstance(condition, Known):
            chosen = blocks[0 if condition.value else 1]
            drafts += self.draft(chosen.nodes())
            for output, result in zip(node.outputs(), chosen.outputs(), strict=True):
                self.slots[output.debugName()] = self.slots[result.debugName()]
            return
        inner = [self._draft_block(block) for block in blocks]
        draft = self._emit(node, drafts, run_if, [self.read(node.input())])
        draft.blocks = inner
        draft.aliases = [(result, output) for block in inner for result, output in zip(block.outputs, draft.outputs, strict=True)]

    def _loop(self, node: Any, drafts: list[Draft]) -> None:
        (block,) = node.blocks()
        for formal in block.inputs():
            self.slots[formal.debugName()] = Named(f"%{formal.debugName()}")
            if formal.type().kind() in CONTAINER_TYPES:
                self.containers.add(f"%{formal.debugName()}")
        inner = self._draft_block(block)
        draft = self._emit(node, drafts, run_loop, [self.read(given) for given in node.inputs()])
        draft.blocks = [inner]
        carried = zip(draft.inputs[2:], inner.inputs[1:], inner.outputs[1:], draft.outputs, strict=True)
        draft.aliases = [(names[0], other) for names in carried for other in names[1:]]

    def _draft_block(self, block: Any) -> DraftBlock:
        inputs = [f"%{formal.debugName()}" for formal in block.inputs()]
        drafts = self.draft(block.nodes())
        return DraftBlock(inputs, drafts, [self.read(result) for result in block.outputs()])

    # Operators ----------------------------------------------------------------------------------------------------

    def _operate(self, node: Any, drafts: list[Draft]) -> None:
        kind = node.kind()
        slots = [self.slots[given.debugName()] for given in node.inputs()]
        answer = Known(None) if kind in IGNORED else fold(node, slots, self.state)
        if answer is not None:
            self.slots.update((output.debugName(), answer) for output in node.outputs())
            return
        text = node.schema()
        schema = operators.parse_schema(text) if text.startswith(kind) else None
        if schema is None or operators.has_output_argument(schema):
            self._reject(node)
            return
        function = operators.find_tensor_operator(kind, schema.overload_name)
        if function is not None or kind in operators.KEYWORD_BUILTINS:
            self._bind(node, drafts, function or BUILTINS[kind], schema, slots)
            return
        builtin = operators.find_builtin(kind, schema.overload_name)
        if builtin is None:
            self._reject(node)
            return
        draft = self._emit(node, drafts, builtin, [self.read(given) for given in node.inputs()])
        self._note_effects(draft, node, schema, draft.inputs)

    def _bind(self, node: Any, drafts: list[Draft], function: Callable[..., Any], schema: Any, slots: list[Slot]) -> None:
        arguments = [
            Given(slot.value)
            if isinstance(slot, Known) and not holds_tensor(slot.value)
            else Read(self.read(given), is_float=given.type().kind() == "FloatType")
            for slot, given in zip(slots, node.inputs(), strict=True)
        ]
        if is_training_call(schema, arguments):
            self.training.append(node.kind())
        call = operators.bind(function, schema, arguments)
        draft = self._emit(node, drafts, call.function, list(call.inputs))
        draft.attributes = call.attributes
        self._note_effects(draft, node, schema, [given.name if isinstance(given, Read) else "" for given in arguments])

    def _note_effects(self, draft: Draft, node: Any, schema: Any, inputs: list[str]) -> None:
        kind, overload = node.kind(), schema.overload_name
        draft.shape_only = operators.is_shape_query(kind)
        draft.from_values = kind in FROM_VALUES
        draft.dynamic_shape = operators.is_random(kind) or operators.is_value_shaped(kind, overload)
        draft.kept = kind == "prim::RaiseException"
        shared = [output for output in node.outputs() if may_share(output)]
        pairs = operators.find_aliases(schema, inputs, [f"%{output.debugName()}" for output in shared])
        draft.aliases = [pair for pair in pairs if pair[0]]
        if operators.is_in_place(schema) and inputs[0]:
            draft.writes = inputs[0]
            draft.functional = operators.find_functional(kind, overload)
            if kind in IN_PLACE_BUILTINS:
                given = zip(inputs[1:], list(node.inputs())[1:], strict=True)
                draft.aliases += [(inputs[0], name) for name, value in given if may_share(value)]
            if not draft.outputs:
                draft.outputs = [f"%{draft.name} result"]

    def _emit(
        self, node: Any, drafts: list[Draft], function: Callable[..., Any], inputs: list[str], *, contains: bool = False
    ) -> Draft:
        kind = node.kind()
        name = "/".join([*find_module(node), f"{kind.partition('::')[2]}_{self._counts[kind]}"])
        self._counts[kind] += 1
        outputs = [f"%{output.debugName()}" for output in node.outputs()]
        for output, made in zip(node.outputs(), outputs, strict=True):
            self.slots[output.debugName()] = Named(made)
            if output.type().kind() in CONTAINER_TYPES:
                self.containers.add(made)
        draft = Draft(name, kind, function, inputs, outputs)
        if contains:
            shared = [made for output, made in zip(node.outputs(), outputs, strict=True) if may_share(output)]
            parts = zip(inputs, node.inputs(), strict=True)
            draft.aliases = [(given, made) for given, part in parts for made in shared if may_share(part)]
        drafts.append(draft)
        return draft

    def _reject(self, node: Any) -> None:
        self.unsupported[node.kind()] += 1
        for output in node.outputs():
            self.slots[output.debugName()] = Named(f"%{output.debugName()}")


def find_module(node: Any) -> list[str]:
    """Return the dotted path of the module that a node stands in, as a list of one, or an empty list where it is not told."""
    text = re.sub(r"\([^)]*\)", "", node.getModuleHierarchy())
    path = ".".join(part for part in text.split(".") if part not in {"", "SELF", "UNKNOWN_INSTANCE"})
    return [path] if path else []
