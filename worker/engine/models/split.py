"""Run a program in two parts: what does not depend on the corrupted weights once, the rest per corruption."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from worker.engine.models.batch import count_examples, cut_batch, fill_batch
from worker.engine.models.clean import CleanProgram, Part, Plan, make_part, measure_bytes
from worker.engine.models.program import OMITTED, Environment, Step, find_last_uses, run_steps
from worker.engine.models.suffix import Cut, find_writers


@dataclass(frozen=True)
class Parts:
    """A plan split at a set of corrupted weights.

    clean: what gives the values that the corrupted steps and the session read of clean ones; shared: whether that takes weights,
    so that a pass which all scopes share is worth its time. drops: the names to free after each corrupted step. fixed: what these
    steps read that no corruption and no batch changes; given: what they read of the inputs. cut: where a session takes over from
    the interpreter when no gradient is wanted; head: the corrupted steps before it.
    """

    plan: Plan
    clean: Part
    shared: bool
    corrupted: tuple[Step, ...]
    drops: tuple[tuple[str, ...], ...]
    fixed: Environment
    given: tuple[str, ...]
    cut: Cut | None
    head: tuple[Step, ...]
    head_drops: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Boundary:
    """What the corrupted part needs of the clean part, for one batch. Without `parts` the whole program runs each time.

    size_bytes: the memory that it takes of its own; what all scopes share counts nothing. count: its examples; the inputs may
    hold more, to fill what the model runs on.
    """

    parts: Parts | None
    inputs: Mapping[str, Any]
    values: Environment
    size_bytes: int
    count: int

    @property
    def has_constants(self) -> bool:
        """Whether a session from the scope's cut on would hold weights."""
        return self.parts is not None and self.parts.cut is not None and self.parts.cut.constant_bytes > 0


class SplitProgram:
    """A program split at a set of corrupted weights.

    `run_clean(batch, inputs)` gives the boundary: every value the corrupted part reads from the clean part.
    `run_corrupted(boundary, parameters)` gives the outputs, and may be called many times per boundary,
    with or without autograd. A program that writes into its inputs is not split.
    """

    def __init__(self, clean: CleanProgram, corrupted: frozenset[str]) -> None:
        self._clean = clean
        self._corrupted = corrupted
        self._parts: list[Parts] = []

    def run_clean(self, batch: int, inputs: Mapping[str, Any]) -> Boundary:
        """Return what the corrupted part needs on batch number `batch`, from what is kept or by running the clean part."""
        count, inputs = count_examples(inputs), fill_batch(inputs, self._clean.program.batch)
        if not self._clean.can_split:
            return Boundary(None, inputs, {}, 0, count)
        parts = self._find_parts(self._clean.find_plan(inputs))
        given = {name: inputs.get(name) for name in parts.given}
        if not parts.clean.wanted:
            return Boundary(parts, inputs, given, 0, count)
        shared = self._clean.find_activations(batch, inputs) if parts.shared else None
        if shared is not None:
            return Boundary(parts, inputs, {**given, **{name: shared[name] for name in parts.clean.wanted}}, 0, count)
        values = self._clean.run(parts.plan, parts.clean, inputs)
        return Boundary(parts, inputs, {**given, **values}, measure_bytes(values.values()), count)

    def run_corrupted(self, boundary: Boundary, parameters: dict[str, Tensor]) -> dict[str, Any]:
        """Run the steps that depend on the corrupted weights, given in `parameters`."""
        program, parts = self._clean.program, boundary.parts
        if parts is None:
            return cut_batch(program.forward(parameters, boundary.inputs), program.batch, boundary.count)
        environment: Environment = parameters.copy()  # which may make what is in it when it is read
        environment |= parts.fixed
        environment |= boundary.values
        run_steps(parts.corrupted, environment, parts.drops)
        return cut_batch({name: environment[name] for name in program.outputs}, program.batch, boundary.count)

    def measure_corrupted(self, boundary: Boundary, parameters: dict[str, Tensor]) -> dict[str, Any]:
        """Do the same without autograd, by ONNX Runtime from the scope's cut on where it can."""
        parts = boundary.parts
        if parts is None or parts.cut is None:
            return self.run_corrupted(boundary, parameters)
        environment = {**parts.fixed, **boundary.values, **parameters}
        run_steps(parts.head, environment, parts.head_drops)
        suffix = self._clean.find_suffixes(parts.plan).find(parts.cut, environment)
        found = suffix.run(environment, parameters) if suffix is not None else None
        if found is None:
            return self.run_corrupted(boundary, parameters)
        return cut_batch(found, self._clean.program.batch, boundary.count)

    def _find_parts(self, plan: Plan) -> Parts:
        for parts in self._parts:
            if parts.plan is plan:
                return parts
        self._parts.append(self._split(plan))
        return self._parts[-1]

    def _split(self, plan: Plan) -> Parts:
        program = self._clean.program
        tainted = set(self._corrupted)
        clean: list[Step] = []
        corrupted: list[Step] = []
        for step in plan.fused:
            if not tainted.isdisjoint(step.uses):
                corrupted.append(step)
                tainted.update(name for name in step.outputs if name != OMITTED)
            elif not plan.knows(step):
                clean.append(step)
        cut = self._clean.find_suffixes(plan).find_cut(self._corrupted, tainted)
        crossing = cut.crossing if cut else ()
        read = {name for step in corrupted for name in step.uses}.union(program.outputs, crossing)
        made = {name for step in clean for name in step.outputs}
        fixed = {name: plan.known[name] for name in read if name in plan.known and name not in tainted} | {OMITTED: None}
        drops = find_last_uses(corrupted, program.outputs)
        head = tuple(find_writers(corrupted, crossing))
        given = read & {spec.name for spec in program.inputs}
        part = make_part(find_writers(clean, (read & made) - given), sorted((read & made) - given))
        shared = any(_is_floating(plan.known.get(name)) for step in part.steps for name in step.uses)
        return Parts(plan, part, shared, tuple(corrupted), drops, fixed, tuple(given), cut, head, find_last_uses(head, crossing))


def _is_floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
