"""Quantised files: stored integers that an operator reads on a grid are weights in real units.

The operator table says which slots read such integers, and where the grid's scale and zero point stand. Behind a
DequantizeLinear the weight takes the place of what it computes; an operator on integers gets a step before it that turns the
weight back into codes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from worker.engine.models.onnx.graph import Graph, Stored
from worker.engine.models.onnx.operators import TABLE
from worker.engine.models.onnx.operators.packed import unpack_grid, unpack_table
from worker.engine.models.onnx.operators.quantisation import READ_WEIGHT, build_grid, find_limits
from worker.engine.models.onnx.registry import NEWEST_OPSET, Codes
from worker.engine.models.onnx.uses import Use, Uses
from worker.engine.models.program import OMITTED, Grid, SkippedTensor, Step, rename_values, replace_steps, walk_steps

READ = frozenset({"DequantizeLinear", "com.microsoft.DequantizeLinear"})
EXACT = frozenset({"ReadWeight", "DequantizeLinear", "MatMulInteger", "ConvInteger", "MatMulIntegerToFloat"})
"""Operators that read codes and round nothing."""
PACKED = {"com.microsoft.MatMulNBits": 1, "com.microsoft.GatherBlockQuantized": 0}
"""Operators whose weight is stored in blocks, with its slot; its scales and zero points are in slots 2 and 3."""
MAKING_REAL = ("MatMulIntegerToFloat", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "QAttention", "QEmbedLayerNormalization")
REAL = READ | {f"com.microsoft.{name}" for name in MAKING_REAL}
"""Operators on codes that make real numbers."""
HANDING_ON = frozenset({"MaxPool", "Resize"})
"""Operators of which integers come out where integers go in, beside those that rearrange."""
CODE_TYPES = frozenset({torch.int8, torch.uint8, torch.int16, torch.uint16, torch.int32})


class Reading(NamedTuple):
    """How integers are read: the names of what is multiplied to the step, of the zero point, the axis and the block size."""

    scales: tuple[str, ...]
    zero_point: str
    axis: int | tuple[int, ...]
    block: int


@dataclass
class Quantised:
    """What the integers of a file turned out to be.

    grids: by weight name. constants: what the new steps read beside weights. dropped: scales and zero points that nothing
    reads any more. numbers: scales and zero points among the stored tensors.
    """

    grids: dict[str, Grid] = field(default_factory=dict)
    constants: dict[str, Tensor] = field(default_factory=dict)
    dropped: dict[str, SkippedTensor] = field(default_factory=dict)
    numbers: set[str] = field(default_factory=set)


def take_grids(graph: Graph) -> Quantised:
    """Turn stored integers that one grid reads into weights, and let their readers read those.

    The weight keeps the integers' stored name and holds (code - zero_point) * scale. Integers that anything else reads too,
    or with another scale, stay integers.

    Returns:
        The grids, and what goes with them.
    """
    uses = Uses(graph.steps, graph.operators)
    found = Quantised()
    aliased: dict[str, Step] = {}
    for name, stored in list(graph.stored.items()):
        readers = _find_readers(name, uses) if stored.tensor.dtype in CODE_TYPES else []
        reading = _find_reading(graph, uses, readers)
        moved = any(not reader.direct for reader in readers)
        grid = None if reading is None else _read_grid(graph, stored, reading, moved=moved)
        if reading is None or grid is None:
            continue
        found.grids[name] = grid
        found.numbers.update({*reading.scales, reading.zero_point} - {OMITTED})
        graph.stored[name] = Stored(grid.decode(grid.codes), stored.origin)
        if all(_is_plain(use, grid) for use in readers):
            aliased.update((use.step.name, use.step) for use in readers)
        else:
            found.constants |= _insert_codes(graph, name, grid)
    _take_packed(graph, uses, found)
    _hand_on(graph, set(aliased))
    found.dropped |= _drop_unread(graph, {name for step in aliased.values() for name in step.inputs[1:]})
    return found


def _take_packed(graph: Graph, uses: Uses, found: Quantised) -> None:
    """Turn weights that are stored packed into weights of one number per place, [rows, columns]."""
    taken: dict[str, Step] = {}
    for step in walk_steps(graph.steps):
        if step.operator not in PACKED:
            continue
        name, scales, zero_points = step.inputs[PACKED[step.operator]], *(*step.inputs[2:4], OMITTED)[:2]
        same = {(use.step.operator, use.step.inputs[2:4]) for use in uses.find_direct(name)} == {
            (step.operator, step.inputs[2:4])
        }
        numbers = [scales, *([zero_points] if zero_points else [])]
        if not same or not all(entry in graph.stored for entry in (name, *numbers)):
            continue
        taken[step.name] = step
        if name not in found.grids:
            grid = _read_packed(step, *(graph.stored[entry] for entry in (name, *numbers)))
            found.grids[name] = grid
            graph.stored[name] = Stored(grid.decode(grid.codes), graph.stored[name].origin)

    def convert(step: Step) -> Step:
        inputs = tuple(OMITTED if slot in {2, 3, 4} else name for slot, name in enumerate(step.inputs))
        return replace(step, inputs=inputs) if step.name in taken else step

    graph.steps = replace_steps(graph.steps, convert)
    found.dropped |= _drop_unread(graph, {name for step in taken.values() for name in step.inputs[2:4]})
    for name in taken:
        graph.nodes.pop(name, None)


def _read_packed(step: Step, stored: Stored, scales: Stored, zero_points: Stored | None = None) -> Grid:
    zeros, packing = None if zero_points is None else zero_points.tensor, dict(step.attributes)
    if PACKED[step.operator]:
        return unpack_grid(stored.tensor, scales.tensor, zeros, **packing)
    del packing["axis"]
    return unpack_table(stored.tensor, stored.narrow, scales.tensor, zeros, **packing)


class Reader(NamedTuple):
    """A slot that computes with stored integers; `direct` where it reads the stored tensor itself."""

    step: Step
    codes: Codes | None
    direct: bool


def _find_readers(name: str, uses: Uses) -> list[Reader]:
    """Return who computes with the integers, seen through what only rearranges them."""
    found: list[Reader] = []
    waiting = [name]
    while waiting:
        place = waiting.pop()
        for use in uses.find_direct(place):
            if use.operator.relays and use.slot == 0:
                waiting += use.step.outputs
                continue
            spec = next((codes for codes in use.operator.codes if codes.slot == use.slot), None)
            found.append(Reader(use.step, spec, place == name))
    return found


def _find_reading(graph: Graph, uses: Uses, readers: Sequence[Reader]) -> Reading | None:
    """Return how all readers read the integers, None where one of them does not read codes or reads them otherwise."""
    readings = {_read_slots(graph, uses, reader.step, reader.codes) if reader.codes else None for reader in readers}
    return readings.pop() if len(readings) == 1 else None


def _read_slots(graph: Graph, uses: Uses, step: Step, codes: Codes) -> Reading | None:
    inputs = (*step.inputs, *[OMITTED] * 20)
    scales = tuple(inputs[slot] for slot in codes.scales) or _find_later_scale(graph, uses, step)
    zero_point = OMITTED if codes.zero_point is None else inputs[codes.zero_point]
    numbers = [name for name in (*scales, zero_point) if name != OMITTED]
    if not scales or not all(name in graph.stored for name in numbers):
        return None
    axis = step.attributes[codes.axis] if isinstance(codes.axis, str) else codes.axis
    if all(graph.stored[name].tensor.numel() == 1 for name in numbers):
        axis = 0  # one number for all: readers agree whatever axis they name
    return Reading(scales, zero_point, axis, step.attributes.get("block", 0))


def _find_later_scale(graph: Graph, uses: Uses, step: Step) -> tuple[str, ...]:
    """Return the stored scale of a product of integers: its result, as floats, is multiplied by both scales' product."""
    cast = _find_only_use(uses, step.outputs[0])
    if cast is not None and cast.step.operator == "Cast":
        scaled = _find_only_use(uses, cast.step.outputs[0])
        if scaled is not None and scaled.step.operator == "Mul":
            writer = uses.find_writer(scaled.step.inputs[1 - scaled.slot])
            if writer is not None and writer.operator == "Mul":
                return tuple(name for name in reversed(writer.inputs) if name in graph.stored)[:1]
    return ()


def _find_only_use(uses: Uses, name: str) -> Use | None:
    readers = uses.find_direct(name)
    return readers[0] if len(readers) == 1 else None


def _read_grid(graph: Graph, stored: Stored, reading: Reading, *, moved: bool) -> Grid | None:
    """Return the grid whose scale and zero point the file stores; None where the integers were moved across its slices."""
    scale = reduce(torch.mul, (graph.stored[name].tensor for name in reading.scales))
    zero_point = graph.stored[reading.zero_point].tensor if reading.zero_point else None
    if moved and (scale.numel() > 1 or (zero_point is not None and zero_point.numel() > 1)):
        return None
    bits = 0 if stored.narrow is None else stored.narrow.bits
    return build_grid(stored.tensor, scale, zero_point, reading.axis, reading.block, bits)


def _is_plain(reader: Reader, grid: Grid) -> bool:
    dtype = reader.step.attributes.get("dtype")
    return reader.direct and reader.step.operator in READ and dtype in {None, grid.step.dtype}


def _insert_codes(graph: Graph, name: str, grid: Grid) -> dict[str, Tensor]:
    """Let a step turn the weight into codes for its readers; return the constants that it reads."""
    codes, step, zero_point = (f"{name}#{what}" for what in ("codes", "step", "zero_point"))
    graph.steps = rename_values(graph.steps, {name: codes})
    graph.steps = (
        Step(codes, READ_WEIGHT.title, READ_WEIGHT.function, (name, step, zero_point), (codes,), like=READ_WEIGHT.like),
        *graph.steps,
    )
    graph.operators[codes] = READ_WEIGHT
    return {step: grid.step, zero_point: grid.zero_point}


def _hand_on(graph: Graph, taken: set[str]) -> None:
    identity = TABLE.find("", "Identity", NEWEST_OPSET)
    if identity is None:
        message = "the table lacks Identity"
        raise RuntimeError(message)
    graph.operators.update(dict.fromkeys(taken, identity))

    def convert(step: Step) -> Step:
        if step.name not in taken:
            return step
        return replace(
            step, operator=identity.title, function=identity.function, inputs=step.inputs[:1], attributes={}, like=None
        )

    graph.steps = replace_steps(graph.steps, convert)


def _drop_unread(graph: Graph, names: set[str]) -> dict[str, SkippedTensor]:
    read = {name for step in walk_steps(graph.steps) for name in step.uses}
    dropped = {name: stored.tensor for name, stored in graph.stored.items() if name in names - read}
    for name in dropped:
        del graph.stored[name]
    return {name: SkippedTensor(name, tensor.numel(), "not_a_weight") for name, tensor in dropped.items()}


def rounds_activations(graph: Graph) -> bool:
    """Whether anything but stored weights is rounded to a grid."""
    return any(
        graph.operators[step.name].rounds and graph.operators[step.name].name not in EXACT for step in walk_steps(graph.steps)
    )


def set_limits(graph: Graph) -> None:
    """Let what rounds to integers of less than a byte know their ends, which the stored zero point's type says."""

    def convert(step: Step) -> Step:
        stored = [graph.stored[name] for name in step.inputs[1:] if name in graph.stored]
        narrow = next((entry.narrow for entry in stored if entry.narrow is not None), None)
        if narrow is None or step.attributes.get("limits", ()) is not None:
            return step
        return replace(step, attributes={**step.attributes, "limits": find_limits(narrow)})

    graph.steps = replace_steps(graph.steps, convert)


def cut_mixed_codes(graph: Graph) -> None:
    """Let what mixes integers that are floats here make integers of them, as it does in the runtime."""
    coded: set[str] = set()

    def convert(step: Step) -> Step:
        operator = graph.operators[step.name]
        if operator.rounds:
            coded.update(() if operator.title in REAL else step.outputs)
        elif step.inputs and step.inputs[0] in coded and (operator.relays or operator.name in HANDING_ON):
            coded.update(step.outputs)
            return replace(step, attributes={**step.attributes, "whole": True}) if "policy" in step.attributes else step
        return step

    graph.steps = replace_steps(graph.steps, convert)


def cast_outputs(graph: Graph) -> None:
    """Give integers that leave the model the type that the file declares: inside they are floats."""
    if not any(operator.rounds for operator in graph.operators.values()):
        return
    declared = dict(zip(graph.outputs, graph.output_types, strict=True))
    made = {name for step in graph.steps for name in step.outputs}
    names = {name: dtype for name, dtype in declared.items() if dtype in CODE_TYPES and name in made}
    cast = TABLE.find("", "Cast", NEWEST_OPSET)
    if cast is None:
        message = "the table lacks Cast"
        raise RuntimeError(message)
    graph.steps = rename_values(graph.steps, {name: f"{name}#codes" for name in names})
    for name, dtype in names.items():
        step = f"{name}#integers"
        graph.operators[step] = cast
        graph.steps += (Step(step, cast.title, _to_integers, (f"{name}#codes",), (name,), {"dtype": dtype}),)


def _to_integers(codes: Tensor, *, dtype: torch.dtype) -> Tensor:
    return codes.round().to(dtype) if codes.is_floating_point() else codes.to(dtype)
