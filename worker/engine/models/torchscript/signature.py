"""Inputs and outputs of a TorchScript forward, under the names that a user of the file sees."""

from collections.abc import Callable, Sequence
from typing import Any

from schemas.errors import Fault, ModelRefused
from worker.engine.models.aten.builtins import make_list, make_tuple, unpack
from worker.engine.models.aten.draft import Draft
from worker.engine.models.aten.results import Path, draft_output, name_output
from worker.engine.models.program import InputSpec
from worker.engine.models.torchscript.arguments import Argument, MakeDict, find_fields, read_arguments
from worker.engine.models.torchscript.importer import Importer
from worker.engine.models.torchscript.slots import SCALAR_TYPES, Known, Named, Owner, Slot, Stored, find_parts


def draft_outputs(importer: Importer, slot: Slot, kind: Any, drafts: list[Draft], path: Path = ()) -> list[str]:
    """Append a step per output tensor, under its name.

    Args:
        importer: knows what each graph value is.
        slot: what the graph returns, or a part of it.
        kind: its TorchScript type.
        drafts: gets the steps.
        path: the place of the part in what is returned.

    Returns:
        The names of the outputs, in order.

    Raises:
        ModelRefused: if the number of outputs is not known before the model runs.
    """
    name = name_output(path)
    if isinstance(slot, Known) or kind.kind() in SCALAR_TYPES:
        return []
    parts = find_parts(slot)
    if parts is None and isinstance(slot, Named) and kind.kind() == "TupleType":
        parts = _draft_items(slot.name, len(kind.elements()), drafts)
    if parts is not None:
        kinds = kind.elements() if kind.kind() == "TupleType" else [kind.getElementType()] * len(parts)
        fields = zip(find_fields(kind, len(parts)), parts, kinds, strict=True)
        return [made for key, part, inner in fields for made in draft_outputs(importer, part, inner, drafts, (*path, key))]
    if isinstance(slot, Named) and slot.entries is not None:
        inner = kind.getValueType()
        return [made for key, part in slot.entries for made in draft_outputs(importer, part, inner, drafts, (*path, key))]
    if kind.kind() not in {"TensorType", "OptionalType"} or isinstance(slot, Owner):
        raise ModelRefused(
            Fault(
                "the outputs of the model are not known before it runs",
                where=name,
                expected="a tensor, or a tuple or dictionary that forward builds where it returns",
                got=str(kind),
                advice="wrap the model in a module that returns its tensors as a tuple",
            )
        )
    source = importer.store(slot, name) if isinstance(slot, Stored) else slot.name
    drafts.append(draft_output(source, name))
    return [name]


def _draft_items(source: str, count: int, drafts: list[Draft]) -> tuple[Slot, ...]:
    names = [f"{source}[{position}]" for position in range(count)]
    aliases = [(source, name) for name in names]
    drafts.append(Draft(f"{source} parts", "prim::TupleUnpack", unpack, [source], names, aliases=aliases))
    return tuple(map(Named, names))


def read_inputs(importer: Importer, schema: Sequence[Any], values: list[Any]) -> tuple[tuple[InputSpec, ...], list[Draft]]:
    """Return the model's inputs, and the steps that put them together to the tuples and dictionaries that forward takes.

    Arguments that are no tensors and hold none take their default.

    Args:
        importer: learns what each argument is.
        schema: forward's schema, without the module itself.
        values: the graph's values, in the same order.

    Raises:
        ModelRefused: if an argument without a default holds no tensors, or bears the name of a weight.
    """
    specs: list[InputSpec] = []
    drafts: list[Draft] = []
    faults: list[Fault] = []
    arguments = read_arguments(schema, values)
    for argument, formal, value in zip(arguments, schema, values, strict=True):
        if argument.kind == "unknown":
            faults.append(_describe_unknown(formal))
            continue
        found = Known(formal.default_value) if argument.kind == "default" else _place(argument, drafts, importer.containers)
        importer.slots[value.debugName()] = found
        for part in argument.inputs:
            if part.name in importer.state.weights or part.name in importer.state.constants:
                faults.append(Fault(f"input {part.name} has the name of a stored tensor", part.name, advice="rename the input"))
            specs.append(InputSpec(part.name, None, None, optional=part.optional))
    if faults:
        raise ModelRefused(*faults)
    return tuple(specs), drafts


def _place(argument: Argument, drafts: list[Draft], containers: set[str]) -> Slot:
    """Return what an argument is to the steps: an input, or what a step puts together from several."""
    if argument.kind == "tensor":
        return Named(argument.name)
    slots = tuple(_place(part, drafts, containers) for part in argument.parts)
    made, given = f"%{argument.name} whole", [slot.name for slot in slots if isinstance(slot, Named)]
    build: dict[str, Callable[..., Any]] = {"tuple": make_tuple, "list": make_list, "dict": MakeDict(argument.keys)}
    drafts.append(Draft(made, "prim::argument", build[argument.kind], given, [made], aliases=[(name, made) for name in given]))
    containers.add(made)
    if argument.kind != "dict":
        return Named(made, slots)
    entries = zip(argument.keys, slots, argument.parts, strict=True)
    return Named(made, entries=tuple((key, slot) for key, slot, part in entries if not part.optional))


def _describe_unknown(formal: Any) -> Fault:
    what, got = f"input {formal.name} is not a tensor", str(formal.type)
    expected = "tensors; tuples, and dictionaries read by constant keys; or arguments with a default"
    advice = "wrap the model in a module whose forward takes tensors only, or give the argument a default"
    return Fault(what, formal.name, expected, got, advice)
