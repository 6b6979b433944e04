"""What is done to the steps once, so that each run does less."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from schemas.errors import Fault, ModelRefused
from worker.engine.models.onnx.registry import Operator
from worker.engine.models.program import OMITTED, Block, Step, walk_steps

MAX_FOLDED = 2**20
"""Elements; a larger folded tensor would cost memory for ever."""

Operators = Mapping[str, Operator]


def drop_aliases(steps: Sequence[Step], operators: Operators, outputs: Iterable[str]) -> tuple[Step, ...]:
    """Return the steps without those that hand their input on; an alias that is a graph output stays."""
    return _drop_aliases(steps, operators, set(outputs), {})


def _drop_aliases(steps: Sequence[Step], operators: Operators, kept: set[str], alias: dict[str, str]) -> tuple[Step, ...]:
    found = []
    for step in steps:
        inputs = tuple(alias.get(name, name) for name in step.inputs)
        if operators[step.name].alias and len(step.outputs) == 1 and step.outputs[0] not in kept:
            alias[step.outputs[0]] = inputs[0]
            continue
        blocks = tuple(_drop_block_aliases(block, operators, alias) for block in step.blocks)
        found.append(replace(step, inputs=inputs, blocks=blocks))
    return tuple(found)


def _drop_block_aliases(block: Block, operators: Operators, alias: dict[str, str]) -> Block:
    steps = _drop_aliases(block.steps, operators, set(), alias)
    return replace(block, steps=steps, outputs=tuple(alias.get(name, name) for name in block.outputs))


def list_numbers(
    steps: Sequence[Step], operators: Operators, constants: Mapping[str, Any]
) -> tuple[tuple[Step, ...], dict[str, list[float]]]:
    """Let the slots that read Python numbers read lists; return the steps and the new constants."""
    lists: dict[str, list[float]] = {}

    def convert(step: Step) -> Step:
        inputs = list(step.inputs)
        for slot in operators[step.name].lists:
            value = constants.get(inputs[slot]) if slot < len(inputs) else None
            if isinstance(value, Tensor):
                name = f"{inputs[slot]}#numbers"
                lists[name] = value.reshape(-1).tolist()
                inputs[slot] = name
        blocks = tuple(replace(block, steps=tuple(convert(inner) for inner in block.steps)) for block in step.blocks)
        return replace(step, inputs=tuple(inputs), blocks=blocks)

    return tuple(convert(step) for step in steps), lists


def fold_integers(steps: Sequence[Step], constants: Mapping[str, Any]) -> tuple[tuple[Step, ...], dict[str, Tensor]]:
    """Compute once what depends on constants only and comes out as integers or booleans.

    Floating-point results are left to the run: Program.cast must see their operators.

    Args:
        steps: the main graph's steps.
        constants: every stored value that is no weight.

    Returns:
        The remaining steps, and the folded values by name.

    Raises:
        ModelRefused: a part of the model that depends on no input cannot be computed.
    """
    known: dict[str, Any] = {**constants, OMITTED: None}
    kept: list[Step] = []
    folded: dict[str, Tensor] = {}
    faults: list[Fault] = []
    for step in steps:
        if step.blocks or step.dynamic_shape or not all(name in known for name in step.inputs):
            kept.append(step)
            continue
        try:
            with torch.no_grad():
                result = step.function(*(known[name] for name in step.inputs), **step.attributes)
        except (RuntimeError, ValueError, IndexError, TypeError, OverflowError, MemoryError) as error:
            advice = "check the constants that the node reads"
            got = str(error).split("\n")[0][:200]
            faults.append(
                Fault("a node that reads only constants cannot be computed", f"node {step.name}", step.operator, got, advice)
            )
            continue
        values = (result,) if len(step.outputs) == 1 else tuple(result)
        known.update(zip(step.outputs, values, strict=False))
        if all(_is_foldable(value) for value in values):
            folded.update(zip(step.outputs, values, strict=False))
        else:
            kept.append(step)
    if faults:
        raise ModelRefused(*faults)
    return tuple(kept), folded


def _is_foldable(value: Any) -> bool:
    return isinstance(value, Tensor) and not value.is_floating_point() and not value.is_complex() and value.numel() <= MAX_FOLDED


def drop_unread(steps: Sequence[Step], outputs: Iterable[str]) -> tuple[Step, ...]:
    """Return the steps that the outputs need."""
    needed = set(outputs)
    kept = []
    for step in reversed(steps):
        if not needed.isdisjoint(step.outputs):
            kept.append(step)
            needed.update(step.uses)
    return tuple(kept[::-1])


def mark_dynamic(steps: Sequence[Step], operators: Operators, constants: Iterable[str]) -> tuple[Step, ...]:
    """Mark the steps whose output shape follows values that come from the data (a Slice by an input, say).

    A value is static when input shapes and constants alone decide it.

    Args:
        steps: the main graph's steps.
        operators: the row of each step, by step name.
        constants: the names of values that are known.

    Returns:
        The same steps, `dynamic_shape` set where it holds.
    """
    static = {*constants, OMITTED}
    marked = []
    for step in steps:
        sizes = operators[step.name].sizes
        moved = any(step.inputs[slot] not in static for slot in sizes if slot < len(step.inputs))
        moved = moved or any(inner.dynamic_shape for inner in walk_steps([step]))
        step = replace(step, dynamic_shape=moved)  # noqa: PLW2901 - the same step with one more fact
        marked.append(step)
        if not step.dynamic_shape and (step.shape_only or static.issuperset(step.uses)):
            static.update(step.outputs)
    return tuple(marked)
