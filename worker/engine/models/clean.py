"""The clean program, shared by every scope: what is known before any batch, and what each batch gives."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from worker.engine.models.batch import fill_batch
from worker.engine.models.channels import find_channel_axes
from worker.engine.models.fusion import Known, fuse_steps
from worker.engine.models.program import OMITTED, Environment, Program, Step, find_last_uses, run_steps
from worker.engine.models.suffix import Suffixes

Signature = tuple[Any, ...]


class Part(NamedTuple):
    """Steps to run, what can be freed after each, and the values wanted of them."""

    steps: tuple[Step, ...]
    drops: tuple[tuple[str, ...], ...]
    wanted: tuple[str, ...]


def make_part(steps: Iterable[Step], wanted: Iterable[str]) -> Part:
    """Return the steps with what is wanted of them."""
    chosen, names = tuple(steps), tuple(wanted)
    return Part(chosen, find_last_uses(chosen, names), names)


@dataclass(frozen=True)
class Plan:
    """How a program runs on inputs of one signature.

    known: constants, clean weights, and every value that follows from them and the input shapes. steps: what the outputs
    need, in order. fused: the same by fewer kernels, for the interpreter. kept: the values of a clean run that a scope's
    corrupted part may read.
    """

    known: Environment
    steps: tuple[Step, ...]
    fused: tuple[Step, ...]
    kept: tuple[str, ...]

    def knows(self, step: Step) -> bool:
        """Tell whether the step need not run while its weights are clean."""
        return self.known.keys() >= set(step.outputs)

    @cached_property
    def part(self) -> Part:
        """What gives the kept values."""
        return make_part([step for step in self.fused if not self.knows(step)], self.kept)


class CleanProgram:
    """A program on its clean weights. Plans are made once per input signature; activations are kept while there is room."""

    def __init__(self, program: Program, room_bytes: int) -> None:
        self.program = program
        self.can_split = not program.mutates
        self.channel_axes = find_channel_axes(program)
        self._room = room_bytes
        self._plans: dict[Signature, Plan] = {}
        self._suffixes: dict[int, Suffixes] = {}
        self._activations: dict[int, Environment] = {}

    def shed(self) -> None:
        """Keep no activations and no sessions: memory ran out."""
        self._activations, self._room = {}, 0
        for suffixes in self._suffixes.values():
            suffixes.shed()

    def find_plan(self, inputs: Mapping[str, Any]) -> Plan:
        """Return the plan for inputs of this signature."""
        signature = compute_signature(inputs)
        if signature not in self._plans:
            self._plans[signature] = make_plan(self.program, inputs)
        return self._plans[signature]

    def find_suffixes(self, plan: Plan) -> Suffixes:
        """Return the sessions of one of these plans, which all scopes share."""
        if id(plan) not in self._suffixes:
            self._suffixes[id(plan)] = Suffixes(self.program, plan)
        return self._suffixes[id(plan)]

    def find_activations(self, batch: int, inputs: Mapping[str, Any]) -> Environment | None:
        """Return the kept values of batch number `batch`, computed at the first call; None where they find no room."""
        if batch not in self._activations:
            if self._room <= 0:
                return None
            plan = self.find_plan(inputs)
            values = self.run(plan, plan.part, inputs)
            self._room -= measure_bytes(values.values())
            if self._room < 0:
                return None
            self._activations[batch] = values
        return self._activations[batch]

    def run(self, plan: Plan, part: Part, inputs: Mapping[str, Any]) -> Environment:
        """Run some of the plan's steps and return the wanted values."""
        environment = {**plan.known, **take_inputs(self.program, inputs)}
        with torch.no_grad():
            run_steps(part.steps, environment, part.drops)
        return {name: environment[name] for name in part.wanted}


def compute_signature(inputs: Mapping[str, Any]) -> Signature:
    """Return what shape-determined values depend on: names, shapes and dtypes of the inputs."""
    return tuple((name, tuple(v.shape), v.dtype) if isinstance(v, Tensor) else (name, v) for name, v in sorted(inputs.items()))


def take_inputs(program: Program, inputs: Mapping[str, Any]) -> Environment:
    """Return the value of every input of the program, as many examples as it runs on; None for an optional one not given."""
    filled = fill_batch(inputs, program.batch)
    return {spec.name: filled.get(spec.name) for spec in program.inputs}


def make_plan(program: Program, inputs: Mapping[str, Any]) -> Plan:
    """Run the clean program once and return the plan for inputs like these."""
    static = find_determined_names(program, ())
    fixed = find_determined_names(program, program.weights)
    known = {**program.constants, **program.weights, OMITTED: None}
    if fixed:
        environment = {**known, **take_inputs(program, inputs)}
        with torch.no_grad():
            run_steps(program.steps, environment, find_last_uses(program.steps, (*program.outputs, *fixed)))
        known |= {name: environment[name] for name in fixed}
    steps = find_needed_steps(program, static)
    constants = {**program.constants, **{name: known[name] for name in static}}
    fused = fuse_steps(steps, program.outputs, Known(known, constants))
    return Plan(known, steps, fused, find_kept_names(program, fused, static, fixed))


def find_determined_names(program: Program, weights: Iterable[str]) -> frozenset[str]:
    """Return the values that follow from constants, input shapes and the given weights: one run per input shape finds them."""
    known = {*program.constants, *weights, OMITTED}
    dynamic: set[str] = set()
    found: set[str] = set()
    for step in program.steps:
        if step.dynamic_shape or not dynamic.isdisjoint(step.uses):
            dynamic.update(step.outputs)
        elif step.shape_only or known.issuperset(step.uses):
            known.update(step.outputs)
            found.update(step.outputs)
    return frozenset(found - {OMITTED})


def find_needed_steps(program: Program, static: frozenset[str]) -> tuple[Step, ...]:
    """Return, in order, the steps that the outputs need when the values named in `static` are known."""
    needed = {name for name in program.outputs if name not in static}
    found: list[Step] = []
    for step in reversed(program.steps):
        if not needed.isdisjoint(step.outputs):
            found.append(step)
            needed.update(name for name in step.uses if name not in static)
    return tuple(reversed(found))


def find_read_weights(program: Program, outputs: tuple[str, ...]) -> tuple[str, ...]:
    """Return the weights that some outputs depend on in any way, also where no gradient passes."""
    alone = replace(program, outputs=outputs)
    steps = find_needed_steps(alone, find_determined_names(program, ()))
    read = {name for step in steps for name in step.uses}
    return tuple(name for name in program.weights if name in read or name in outputs)


def find_kept_names(program: Program, steps: Sequence[Step], static: frozenset[str], fixed: frozenset[str]) -> tuple[str, ...]:
    """Return the values that can be clean where their reader is corrupted: it reads weights, or a second value."""
    corruptible = program.weights.keys() | (fixed - static)
    made = {name for step in steps for name in step.outputs} - fixed
    names = made.intersection(program.outputs)
    for step in steps:
        values = made.intersection(step.uses)
        if len(values) > 1 or not corruptible.isdisjoint(step.uses):
            names |= values
    return tuple(sorted(names))


def measure_bytes(values: Iterable[Any]) -> int:
    """Return the memory behind the tensors among `values`, each storage counted once."""
    storages = {v.untyped_storage().data_ptr(): v.untyped_storage().nbytes() for v in values if isinstance(v, Tensor)}
    return sum(storages.values())
