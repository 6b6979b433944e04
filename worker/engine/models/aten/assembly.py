"""The last steps from drafts to a program: no writing in place where it can be avoided, nothing dead, shapes told from values."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from schemas.errors import ModelRefused
from worker.engine.models.aten.classify import Classifier
from worker.engine.models.aten.devices import ANCHOR, draft_device
from worker.engine.models.aten.draft import Draft, drop_dead, finish
from worker.engine.models.aten.mutation import describe_state_change, remove_mutation
from worker.engine.models.aten.state import State
from worker.engine.models.program import InputSpec, Program


@dataclass
class Sketch:
    """What an importer has read of a graph.

    prelude: drafts that run before all others. containers: the names of lists, tuples and dictionaries. training: the operators
    in training mode. integers: further names that hold integer tensors. rounds: for Program.rounds.
    """

    state: State
    inputs: tuple[InputSpec, ...]
    drafts: list[Draft]
    outputs: list[str]
    prelude: list[Draft] = field(default_factory=list)
    containers: set[str] = field(default_factory=set)
    training: list[str] = field(default_factory=list)
    integers: set[str] = field(default_factory=set)
    rounds: bool = False


def assemble(sketch: Sketch, model_format: str, producer: str, *, saved_in_training: bool = False) -> Program:
    """Return the program of a sketch.

    Args:
        sketch: what was read; its drafts are changed in place.
        model_format: for Program.format.
        producer: for Program.producer.
        saved_in_training: for Program.saved_in_training.

    Raises:
        ModelRefused: if the graph writes into weights or buffers.
    """
    state, inputs = sketch.state, {spec.name for spec in sketch.inputs}
    stored = frozenset(state.weights) | _find_stored(state)
    stateful = remove_mutation(sketch.drafts, sketch.outputs, inputs, stored, frozenset(sketch.containers))
    if stateful and not sketch.training:  # a batch norm in training mode counts its batches: that is the reason to give
        raise ModelRefused(describe_state_change(stateful))
    steps = drop_dead([draft_device(), *sketch.prelude, *sketch.drafts], set(sketch.outputs))
    shapes = {name for name, value in state.constants.items() if not isinstance(value, Tensor) or value.dim() == 0}
    integers = {name for name, value in state.constants.items() if _is_integer_index(value)}
    Classifier(shapes - inputs, integers | sketch.integers).mark(steps)
    return Program(
        format=model_format,
        producer=producer,
        opset=None,
        inputs=sketch.inputs,
        outputs=tuple(sketch.outputs),
        weights=state.weights,
        constants={**state.constants, ANCHOR: torch.empty(0)},
        steps=finish(steps),
        modules=state.modules,
        skipped=tuple(state.skipped),
        training=bool(sketch.training),
        saved_in_training=saved_in_training,
        rounds=sketch.rounds,
        grids=state.grids,
    )


def _find_stored(state: State) -> frozenset[str]:
    return frozenset(name for name, value in state.constants.items() if isinstance(value, Tensor | list | dict))


def _is_integer_index(value: Any) -> bool:
    # None stands for a whole dimension among indices.
    return value is None or (isinstance(value, Tensor) and not value.is_floating_point() and value.dtype != torch.bool)
