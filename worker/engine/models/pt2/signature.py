"""What the inputs and outputs of an exported graph are: parameters, buffers, constants, what the user gives and gets."""

from dataclasses import dataclass
from typing import Any

from schemas.errors import Fault, ModelRefused
from worker.engine.models.aten.operators import Given, Read
from worker.engine.models.pt2.document import Argument, Graph, read_argument, read_graph
from worker.engine.models.pt2.reading import malformed, read_field, read_integer, read_list, read_object, read_text, read_union

SCHEMA_MAJOR = 8

NAMED_INPUTS = {"parameter": "parameter_name", "buffer": "buffer_name", "tensor_constant": "tensor_constant_name"}
"""Inputs that are stored in the archive, and the field with their full name."""
STATE_CHANGES = {"buffer_mutation": "buffer_name", "parameter_mutation": "parameter_name"}
"""Outputs by which a call changes the next."""
IGNORED_RESULTS = frozenset({"user_input_mutation"})


@dataclass(frozen=True)
class Formal:
    """An input of the outer graph.

    kind: parameter, buffer, tensor_constant, user_input or constant_input. name: its full name.
    """

    kind: str
    argument: Argument
    name: str


@dataclass(frozen=True)
class Document:
    """What models/*.json holds, as far as it is read.

    results: what the user gets, in order. changes: the full names of buffers and parameters that a call changes.
    output_spec: where the results stand in what forward returns. guards: what the exporter assumed of the inputs, as texts.
    """

    version: str
    graph: Graph
    formals: tuple[Formal, ...]
    results: tuple[Argument, ...]
    changes: tuple[str, ...]
    output_spec: str | None
    namedtuples: dict[str, tuple[str, ...]]
    guards: tuple[str, ...]

    @property
    def stored(self) -> dict[str, str]:
        """The full names of the stored tensors that the graph reads, each with its name in the graph."""
        arguments = ((formal.name, formal.argument) for formal in self.formals if formal.kind in NAMED_INPUTS)
        return {name: argument.name for name, argument in arguments if isinstance(argument, Read)}


def read_document(value: Any, where: str) -> Document:
    """Return the model of an archive.

    Args:
        value: the parsed JSON.
        where: the entry's name.

    Returns:
        The document; all arguments are of known types, names are not resolved yet.

    Raises:
        ModelRefused: if it is of another schema, holds expressions that are code, or a training graph with its backward.
        ModelUnreadable: if it is not built as torch.export builds it.
    """
    given = read_object(value, where)
    version = read_object(read_field(given, "schema_version", where), where)
    major = read_integer(read_field(version, "major", where), where)
    if major != SCHEMA_MAJOR:
        advice = "export the model again with a PyTorch of 2.9 to 2.13"
        raise ModelRefused(Fault("the graph has an unknown schema version", where, f"{SCHEMA_MAJOR}.x", str(major), advice))
    module = read_object(read_field(given, "graph_module", where), where)
    signature = read_object(read_field(module, "signature", where), where)
    graph = read_graph(read_field(module, "graph", where), "graph")
    inputs = read_list(read_field(signature, "input_specs", where), where)
    outputs = read_list(read_field(signature, "output_specs", where), where)
    formals = tuple(_read_formal(spec, f"signature.input_specs[{place}]") for place, spec in enumerate(inputs))
    results, changes = _read_results(outputs)
    return Document(
        version=read_text(given.get("torch_version", "unknown"), where),
        graph=graph,
        formals=formals,
        results=results,
        changes=changes,
        output_spec=_find_output_spec(module, where),
        namedtuples=_read_namedtuples(module, where),
        guards=tuple(read_text(guard, where) for guard in read_list(given.get("guards_code", []), where)),
    )


def _read_formal(value: Any, where: str) -> Formal:
    kinds = {*NAMED_INPUTS, "user_input", "constant_input", "custom_obj", "token"}
    kind, content = read_union(value, kinds, where)
    spec = read_object(content, where)
    if kind in {"custom_obj", "token"}:
        what = "the model takes a script object" if kind == "custom_obj" else "the model orders side effects by tokens"
        advice = "export a model of tensors and plain values"
        raise ModelRefused(Fault(what, where, "tensors", str(spec.get("custom_obj_name", kind)), advice))
    if kind == "constant_input":
        _, known = read_union(read_field(spec, "value", where), {"as_none", "as_int", "as_float", "as_string", "as_bool"}, where)
        return Formal(kind, Given(known), read_text(read_field(spec, "name", where), where))
    argument = read_field(spec, "arg", where)
    if kind == "user_input":
        found = read_argument(argument, where)
        return Formal(kind, found, found.name if isinstance(found, Read) else "")
    name = read_text(read_field(read_object(argument, where), "name", where), where)
    return Formal(kind, Read(name), read_text(read_field(spec, NAMED_INPUTS[kind], where), where))


def _read_results(specs: list[Any]) -> tuple[tuple[Argument, ...], tuple[str, ...]]:
    results: list[Argument] = []
    changes: list[str] = []
    for place, spec in enumerate(specs):
        where = f"signature.output_specs[{place}]"
        kinds = {"user_output", *STATE_CHANGES, *IGNORED_RESULTS, "loss_output", "token"}
        kinds |= {"gradient_to_parameter", "gradient_to_user_input"}
        kind, content = read_union(spec, kinds, where)
        given = read_object(content, where)
        if kind in STATE_CHANGES:
            changes.append(read_text(read_field(given, STATE_CHANGES[kind], where), where))
        elif kind == "user_output":
            results.append(read_argument(read_field(given, "arg", where), where))
        elif kind not in IGNORED_RESULTS:
            advice = "export the forward of the model alone"
            raise ModelRefused(Fault("the graph computes more than outputs", where, "a forward", kind.replace("_", " "), advice))
    return tuple(results), tuple(changes)


def _find_output_spec(module: Any, where: str) -> str | None:
    calls = read_list(module.get("module_call_graph", []), where)
    if not calls:
        return None
    first = read_object(read_object(calls[0], where).get("signature") or {}, where)
    spec = first.get("out_spec")
    return None if spec is None else read_text(spec, where)


def _read_namedtuples(module: Any, where: str) -> dict[str, tuple[str, ...]]:
    found = {}
    for name, definition in read_object(module.get("treespec_namedtuple_fields", {}), where).items():
        fields = read_list(read_field(read_object(definition, where), "field_names", where), where)
        found[name] = tuple(read_text(field, where) for field in fields)
    return found


def check_names(document: Document, where: str) -> None:
    """Refuse a signature that does not fit its graph: each input of the graph stands in it once, in order."""
    expected = [formal.argument for formal in document.formals if formal.kind != "constant_input"]
    got = [argument for argument in document.graph.inputs if isinstance(argument, Read)]
    if [argument.name for argument in expected if isinstance(argument, Read)] != [argument.name for argument in got]:
        raise malformed(where, "a signature with the inputs of the graph, in order", len(got))
