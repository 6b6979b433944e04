"""Inputs and outputs of a TorchScript forward, under the names that a user of the file sees."""

import re
from collections.abc import Sequence
from typing import Any

from schemas.errors import Fault, ModelRefused
from worker.engine.models.aten.builtins import unpack
from worker.engine.models.aten.draft import Draft
from worker.engine.models.aten.results import Path, draft_output, name_output
from worker.engine.models.program import InputSpec
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
        fields = zip(_find_fields(kind, len(parts)), parts, kinds, strict=True)
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


def _find_fields(kind: Any, count: int) -> Sequence[str | int]:
    # A named tuple's type prints as NamedTuple(logits : Tensor, mask : Tensor).
    text = kind.str()
    return re.findall(r"(?:\(|, )(\w+) : ", text) if text.startswith("NamedTuple(") else range(count)


def read_inputs(importer: Importer, schema: Any, values: list[Any]) -> tuple[InputSpec, ...]:
    """Return the model's inputs; arguments that are no tensors take their default.

    Args:
        importer: learns what each argument is.
        schema: forward's schema, without the module itself.
        values: the graph's values, in the same order.

    Raises:
        ModelRefused: if an argument without a default is no tensor, or bears the name of a weight.
    """
    specs: list[InputSpec] = []
    faults: list[Fault] = []
    for formal, value in zip(schema, values, strict=True):
        text = str(formal.type)
        if text in {"Tensor", "Optional[Tensor]"}:
            if formal.name in importer.state.weights or formal.name in importer.state.constants:
                faults.append(
                    Fault(f"input {formal.name} has the name of a stored tensor", where=formal.name, advice="rename the input")
                )
            importer.slots[value.debugName()] = Named(formal.name)
            specs.append(InputSpec(formal.name, None, None, optional=formal.has_default_value()))
        elif formal.has_default_value():
            importer.slots[value.debugName()] = Known(formal.default_value)
        else:
            faults.append(
                Fault(
                    f"input {formal.name} is not a tensor",
                    where=formal.name,
                    expected="tensors, or arguments with a default",
                    got=text,
                    advice="wrap the model in a module whose forward takes tensors only",
                )
            )
    if faults:
        raise ModelRefused(*faults)
    return tuple(specs)
