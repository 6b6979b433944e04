"""Load a torch.export archive as a program."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from schemas.errors import Fault, ModelRefused, UnsupportedOperator
from worker.engine.models.aten.assembly import Sketch, assemble
from worker.engine.models.aten.devices import DeviceFollower
from worker.engine.models.aten.draft import Draft
from worker.engine.models.aten.mutation import describe_state_change
from worker.engine.models.aten.operators import Given, Read
from worker.engine.models.aten.results import draft_output, name_output
from worker.engine.models.aten.state import State, check_dense
from worker.engine.models.program import InputSpec, Program
from worker.engine.models.pt2.archive import open_archive
from worker.engine.models.pt2.document import Declared
from worker.engine.models.pt2.importer import ATEN, Frame, Importer, Scope
from worker.engine.models.pt2.quantised import find_grids
from worker.engine.models.pt2.signature import Document, check_names, read_document
from worker.engine.models.pt2.trees import find_paths
from worker.engine.models.pt2.weights import Payloads, load_all

INTEGERS = frozenset({torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64})


@dataclass(frozen=True)
class Contents:
    """The graph of an archive and its stored tensors by full name."""

    document: Document
    tensors: dict[str, Tensor]


def read_contents(path: Path) -> Contents:
    """Scan an archive and read its graph and tensors. Nothing of it is executed, unpickled or evaluated.

    Args:
        path: the file.

    Returns:
        What it holds.

    Raises:
        ModelUnreadable: if it is damaged or not built as torch.export builds it.
        ModelRefused: if it is built to mislead its reader, of an unknown version, or needs what only a pickle holds.
    """
    with open_archive(path) as archive:
        where = f"models/{archive.model}.json"
        document = read_document(archive.read_json(where), where)
        check_names(document, where)
        tensors = load_all(Payloads(archive), document.stored)
    parameters = {formal.name for formal in document.formals if formal.kind == "parameter"}
    checked = (check_dense(name, tensor, is_parameter=name in parameters) for name, tensor in tensors.items())
    faults = [fault for found in checked for fault in found]
    if faults:
        raise ModelRefused(*faults)
    return Contents(document, tensors)


def load_pt2(path: Path) -> Program:
    """Return the program of a torch.export archive.

    Weights keep the file's full names; tied ones are one weight.

    Args:
        path: the file.

    Returns:
        The program.

    Raises:
        ModelUnreadable: if the file is damaged or not built as torch.export builds it.
        ModelRefused: if it is built to mislead its reader, or has a forward that cannot be audited as it is.
        UnsupportedOperator: if it uses operators outside the table; all of them are named.
    """
    return import_contents(read_contents(path))


def import_contents(contents: Contents) -> Program:
    """Return the program of an archive's contents.

    Args:
        contents: the graph and its tensors, which become the program's.

    Returns:
        The program.

    Raises:
        ModelRefused: if its forward writes into its own weights or buffers, or takes what is no tensor.
        UnsupportedOperator: if it uses operators outside the table, with the program of the others.
    """
    document = contents.document
    scope, state = sort_tensors(contents)
    inputs = _read_inputs(document, state, scope)
    follower = DeviceFollower(state)
    importer = Importer(state, follower)
    drafts = importer.draft(document.graph, Frame(scope))
    outputs = _draft_outputs(document, importer, scope, {spec.name for spec in inputs}, drafts)
    unsupported = importer.describe_unsupported()
    if document.changes and not importer.training and not unsupported:
        raise ModelRefused(describe_state_change(list(document.changes)))
    sketch = Sketch(state, inputs, drafts, outputs)
    sketch.prelude, sketch.containers, sketch.training = follower.drafts, importer.containers, importer.training
    sketch.rounds = importer.rounds
    sketch.integers = {f"%{name}" for name, tensor in document.graph.tensors.items() if tensor.dtype in INTEGERS}
    sketch.integers |= {spec.name for spec in inputs if spec.dtype in INTEGERS}
    program = assemble(sketch, "pt2", f"pytorch {document.version}")
    if unsupported:
        raise UnsupportedOperator(*unsupported, partial=program)
    return program


def sort_tensors(contents: Contents) -> tuple[Scope, State]:
    """Sort the stored tensors into weights and constants."""
    document = contents.document
    scope: Scope = {}
    state = State()
    uses, grids = _find_uses(document), find_grids(document, contents.tensors)
    # Parameters first: whether there are any decides what a lifted constant is.
    for formal in sorted(document.formals, key=lambda formal: formal.kind != "parameter" and formal.name not in grids):
        if not isinstance(formal.argument, Read):
            continue
        graph_name = formal.argument.name
        if formal.name in grids:
            state.add_grid(formal.name, grids[formal.name])
            scope[graph_name] = Read(formal.name)
        elif formal.kind in {"parameter", "buffer"}:
            tensor = contents.tensors[formal.name]
            state.add_attribute(formal.name, tensor, is_parameter=formal.kind == "parameter")
            scope[graph_name] = Read(state.find_name(tensor) or formal.name)
        elif formal.kind == "tensor_constant":
            name = state.add_constant(formal.name, uses.get(graph_name, ""), contents.tensors[formal.name])
            scope[graph_name] = Read(name)
    return scope, state


def _find_uses(document: Document) -> dict[str, str]:
    """Return, by name in the graph, as which argument the first aten operator takes it."""
    uses: dict[str, str] = {}
    for node in document.graph.nodes:
        if ATEN.fullmatch(node.target):
            for name, argument in node.inputs:
                if isinstance(argument, Read):
                    uses.setdefault(argument.name, name)
    return uses


def _read_inputs(document: Document, state: State, scope: Scope) -> tuple[InputSpec, ...]:
    specs: list[InputSpec] = []
    faults: list[Fault] = []
    for formal in document.formals:
        argument = formal.argument
        if formal.kind == "constant_input":
            scope[formal.name] = argument if isinstance(argument, Given) else Given(None)
        if formal.kind != "user_input" or isinstance(argument, Given):
            continue
        declared = document.graph.tensors.get(formal.name)
        if declared is None:
            what, got = f"input {formal.name} is not a tensor", "a number that may change"
            advice = "wrap the model in a module whose forward takes tensors only"
            faults.append(Fault(what, formal.name, "tensors and constants", got, advice))
        elif formal.name in state.weights or formal.name in state.constants:
            what = f"input {formal.name} has the name of a stored tensor"
            faults.append(Fault(what, formal.name, advice="rename the input"))
        else:
            scope[formal.name] = Read(formal.name)
            specs.append(InputSpec(formal.name, declared.dtype, _find_shape(declared)))
    if faults:
        raise ModelRefused(*faults)
    return tuple(specs)


def _find_shape(declared: Declared) -> tuple[int | None, ...]:
    return tuple(size if isinstance(size, int) else None for size in declared.sizes)


def _draft_outputs(document: Document, importer: Importer, scope: Scope, taken: set[str], drafts: list[Draft]) -> list[str]:
    """Append a step per output tensor, under its name; numbers and None are left out."""
    paths = find_paths(document.output_spec, len(document.results), document.namedtuples)
    used = {*taken, *importer.state.weights, *importer.state.constants}
    outputs: list[str] = []
    for path, result in zip(paths, document.results, strict=True):
        found = importer.resolve(result, scope, "the model's output")
        if isinstance(found, Given) or (isinstance(result, Read) and result.name not in document.graph.tensors):
            continue
        name = name_output(path)
        while name in used:
            name = f"output_{name}"
        used.add(name)
        drafts.append(draft_output(found.name, name))
        outputs.append(name)
    return outputs
