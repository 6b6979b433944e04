"""Run a program in two parts: what does not depend on the corrupted weights once, the rest per corruption."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from worker.engine.models.program import OMITTED, Environment, Program, Step, find_last_uses, find_uses, run_steps

Signature = tuple[Any, ...]


def compute_signature(inputs: Mapping[str, Any]) -> Signature:
    """Return what shape-determined values depend on: names, shapes and dtypes of the inputs."""
    return tuple((name, tuple(v.shape), v.dtype) if isinstance(v, Tensor) else (name, v) for name, v in sorted(inputs.items()))


def find_static_names(program: Program) -> frozenset[str]:
    """Return the values that depend on constants and input shapes only, so one run per input shape finds them."""
    static = set(program.constants) | {OMITTED}
    dynamic: set[str] = set()
    if program.mutates:
        return frozenset()
    found: set[str] = set()
    for step in program.steps:
        uses = find_uses(step)
        if step.dynamic_shape or step.blocks or any(name in dynamic for name in uses):
            dynamic.update(step.outputs)
        elif step.shape_only or all(name in static for name in uses):
            static.update(step.outputs)
            found.update(step.outputs)
    return frozenset(found - {OMITTED})


@dataclass(frozen=True)
class Part:
    """Steps with the names to free after each, ready to run."""

    steps: tuple[Step, ...]
    drops: tuple[tuple[str, ...], ...]

    @staticmethod
    def build(steps: Sequence[Step], kept: Sequence[str]) -> "Part":
        """Return the part for `steps` that keeps the values named in `kept`."""
        return Part(tuple(steps), find_last_uses(steps, kept))


@dataclass(frozen=True)
class Parts:
    """A split for inputs of one signature; `fixed` is what the corrupted part reads that no run changes."""

    clean: Part
    corrupted: Part
    static: Environment
    fixed: Environment
    boundary: tuple[str, ...]


@dataclass(frozen=True)
class Boundary:
    """What the corrupted part needs of the clean part, for one batch. Without `parts` the whole program runs each time."""

    parts: Parts | None
    inputs: Mapping[str, Any]
    values: Environment

    @property
    def size_bytes(self) -> int:
        """The memory that the values take."""
        return sum(value.nbytes for value in self.values.values() if isinstance(value, Tensor))


class SplitProgram:
    """A program split at a set of corrupted weights.

    `run_clean(inputs)` gives the boundary: every value the corrupted part reads from the clean part.
    `run_corrupted(boundary, parameters)` gives the outputs, and may be called many times per boundary,
    with or without autograd. A program that writes into its inputs is not split.
    """

    def __init__(self, program: Program, corrupted: frozenset[str]) -> None:
        self.program = program
        self.corrupted = corrupted
        self._mutates = program.mutates
        self._static_names = find_static_names(program)
        self._parts: dict[Signature, Parts] = {}

    def run_clean(self, inputs: Mapping[str, Any]) -> Boundary:
        """Run what no corrupted weight reaches; return the values that the rest needs."""
        if self._mutates:
            return Boundary(None, inputs, {})
        signature = compute_signature(inputs)
        if signature not in self._parts:
            self._parts[signature] = self._build_parts(inputs)
        parts = self._parts[signature]
        given = {spec.name: inputs.get(spec.name) for spec in self.program.inputs}
        environment = {**self.program.constants, **self.program.weights, **parts.static, **given, OMITTED: None}
        with torch.no_grad():
            run_steps(parts.clean.steps, environment, parts.clean.drops)
        return Boundary(parts, inputs, {name: environment[name] for name in parts.boundary})

    def run_corrupted(self, boundary: Boundary, parameters: Mapping[str, Tensor]) -> dict[str, Any]:
        """Run the steps that depend on the corrupted weights, given in `parameters`."""
        if boundary.parts is None:
            return self.program.forward(parameters, boundary.inputs)
        corrupted = boundary.parts.corrupted
        environment = {**boundary.parts.fixed, **boundary.values, **parameters}
        run_steps(corrupted.steps, environment, corrupted.drops)
        return {name: environment[name] for name in self.program.outputs}

    def _build_parts(self, inputs: Mapping[str, Any]) -> Parts:
        static = compute_static_values(self.program, self._static_names, inputs)
        tainted = set(self.corrupted)
        clean: list[Step] = []
        corrupted: list[Step] = []
        for step in find_needed_steps(self.program, static):
            reached = any(name in tainted for name in find_uses(step))
            (corrupted if reached else clean).append(step)
            if reached:
                tainted.update(name for name in step.outputs if name != OMITTED)
        read = {name for step in corrupted for name in find_uses(step)} | set(self.program.outputs)
        made = {name for step in clean for name in step.outputs} | {spec.name for spec in self.program.inputs}
        boundary = tuple(sorted(read & made))
        known = {**self.program.constants, **self.program.weights, **static}
        fixed = {name: known[name] for name in read if name in known} | {OMITTED: None}
        return Parts(Part.build(clean, boundary), Part.build(corrupted, self.program.outputs), static, fixed, boundary)


def compute_static_values(program: Program, names: frozenset[str], inputs: Mapping[str, Any]) -> Environment:
    """Run the clean program once on `inputs` and return the values called `names`."""
    environment = {**program.constants, **program.weights, OMITTED: None}
    environment.update({spec.name: inputs.get(spec.name) for spec in program.inputs})
    with torch.no_grad():
        run_steps(program.steps, environment, find_last_uses(program.steps, (*program.outputs, *names)))
    return {name: environment[name] for name in names}


def find_needed_steps(program: Program, static: Environment) -> list[Step]:
    """Return, in order, the steps that the outputs need when the values in `static` are known."""
    needed = {name for name in program.outputs if name not in static}
    kept: list[Step] = []
    for step in reversed(program.steps):
        if needed.isdisjoint(step.outputs):
            continue
        kept.append(step)
        needed.update(name for name in find_uses(step) if name not in static)
    return kept[::-1]
