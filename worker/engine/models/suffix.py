"""Where a program is cut, so that ONNX Runtime measures what follows; no gradient is wanted there.

A session runs the steps from a cut to the end. The weights of later steps are constants, which the runtime packs; what it
packs most are convolutions, so a scope that corrupts one runs it in the interpreter and cuts behind it. Other scopes share a
few cuts at equal distances, with the weights up to the next cut as inputs: there a clean weight costs little more as an
input, and one session serves many scopes.
"""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from worker.engine.models.onnx.suffix import Suffix, build_suffix, is_portable
from worker.engine.models.program import OMITTED, Program, Step

if TYPE_CHECKING:
    from worker.engine.models.clean import Plan

STAGES = 8
"""A session takes 5 to 150 ms to build; with more stages a scope runs fewer steps that it did not change."""
KEPT_SESSIONS = 12
"""Each has threads and working memory of its own."""
FEWEST_STEPS = 7
"""The interpreter is as fast on fewer."""
MOST_CROSSING = 8
CONSTANT_BYTES = 128 * 2**20
"""Weights that all sessions of a program hold as constants; the runtime may hold them twice, once packed."""
PACKED = frozenset({"Conv", "ConvTranspose"})
RANDOM = ("Random", "Bernoulli", "Multinomial")


@dataclass(frozen=True)
class Cut:
    """The running step that a session starts at, and the weights that it takes as inputs.

    crossing: what its steps read of earlier ones and of the program's inputs. constant_bytes: of the other weights.
    """

    start: int
    weights: frozenset[str]
    crossing: tuple[str, ...]
    constant_bytes: int


class Suffixes:
    """The sessions of one plan, built when first used; the least recently used go when their constants take too much room."""

    def __init__(self, program: Program, plan: "Plan") -> None:
        self._program, self._plan = program, plan
        self._running = [step for step in plan.steps if not plan.knows(step)]
        self._kept = {*plan.kept, *(spec.name for spec in program.inputs)}
        self._portable = is_portable(program) and not any(step.operator.startswith(RANDOM) for step in self._running)
        self._built: dict[Cut, Suffix | None] = {}

    @cached_property
    def _reads(self) -> dict[str, tuple[int, ...]]:
        return find_reads(self._program, self._plan)

    @cached_property
    def _crossings(self) -> dict[int, tuple[str, ...]]:
        return find_crossings(self._program, self._running)

    def find_cut(self, corrupted: Iterable[str], tainted: AbstractSet[str]) -> Cut | None:
        """Return the cut for a scope, None where the interpreter runs everything. tainted: every value that it changes."""
        if not self._portable:
            return None
        read = {name: self._reads[name] for name in corrupted}
        places = sorted(place for found in read.values() for place in found)
        packed = [place for place in places if self._running[place].operator in PACKED]
        if packed:
            start = packed[-1] + 1
            weights = frozenset(name for name, found in read.items() if found and found[-1] >= start)
        else:
            start = max((stage for stage in self._stages if places and stage <= places[0]), default=len(self._running))
            weights = frozenset(read) | self._find_stage_weights(start)
        crossing = self._crossings.get(start)
        if crossing is None or not (set(crossing) - tainted) <= self._kept:
            return None
        short = len(self._running) - max(start, places[0]) < FEWEST_STEPS
        size = self._measure_constants(start, weights)
        return None if short or size > CONSTANT_BYTES else Cut(start, weights, crossing, size)

    def find(self, cut: Cut, values: Mapping[str, Any]) -> Suffix | None:
        """Return the session for a cut; None where the runtime cannot run it. values: an example of what passes the cut."""
        if cut in self._built:
            self._built[cut] = self._built.pop(cut)
            return self._built[cut]
        room = CONSTANT_BYTES - cut.constant_bytes
        while len(self._built) >= KEPT_SESSIONS or sum(built.constant_bytes for built in self._built) > room:
            del self._built[next(iter(self._built))]
        crossing = {name: values[name] for name in cut.crossing}
        self._built[cut] = build_suffix(self._program, self._find_steps(cut), self._plan.known, cut.weights, crossing)
        return self._built[cut]

    def shed(self) -> None:
        """Drop every session; they are built again when needed."""
        self._built.clear()

    @cached_property
    def _stages(self) -> list[int]:
        """Positions near equal distances, where the fewest values cross and all of them are kept."""
        width = len(self._running) / STAGES
        found: set[int] = set()
        for index in range(STAGES):
            near = [
                (len(names), abs(place - index * width), place)
                for place, names in self._crossings.items()
                if abs(place - index * width) <= width / 2 and self._kept.issuperset(names)
            ]
            found.update(place for _, _, place in sorted(near)[:1])
        return sorted(found)

    def _find_stage_weights(self, start: int) -> frozenset[str]:
        end = min((stage for stage in self._stages if stage > start), default=len(self._running))
        packed = {place for place, step in enumerate(self._running) if step.operator in PACKED}
        return frozenset(
            name
            for name, places in self._reads.items()
            if packed.isdisjoint(places) and any(start <= place < end for place in places)
        )

    def _measure_constants(self, start: int, inputs: AbstractSet[str]) -> int:
        """Return the bytes of the weights that a session holds which starts there with these weights as inputs."""
        later = (name for name, places in self._reads.items() if places and places[-1] >= start and name not in inputs)
        return sum(self._program.weights[name].nbytes for name in later)

    def _find_steps(self, cut: Cut) -> list[Step]:
        """Return what a session runs, in order: the steps behind the cut, and what turns its weights into what they read."""
        chosen = {step.name for step in self._running[cut.start :]}
        changed = set(cut.weights)
        for step in self._plan.steps:
            if self._plan.knows(step) and not changed.isdisjoint(step.uses):
                changed.update(step.outputs)
                chosen.add(step.name)
        return find_writers([step for step in self._plan.steps if step.name in chosen], self._program.outputs)


def find_reads(program: Program, plan: "Plan") -> dict[str, tuple[int, ...]]:
    """Return, by weight, which running steps read it, directly or by a value that follows from weights alone."""
    roots = {name: {name} for name in program.weights}
    reads: dict[str, list[int]] = {name: [] for name in program.weights}
    position = 0
    for step in plan.steps:
        found: set[str] = set().union(*(roots.get(name, ()) for name in step.uses))
        if plan.knows(step):
            roots.update({name: found for name in step.outputs if name != OMITTED})
            continue
        for name in found:
            reads[name].append(position)
        position += 1
    return {name: tuple(places) for name, places in reads.items()}


def find_crossings(program: Program, running: list[Step]) -> dict[int, tuple[str, ...]]:
    """Return, by position, the values that the steps from there on read of earlier ones, where they are few."""
    made = {name for step in running for name in step.outputs} | {spec.name for spec in program.inputs}
    names = made.intersection(program.outputs)
    found = {}
    for position in range(len(running) - 1, -1, -1):
        names = (names - set(running[position].outputs)) | made.intersection(running[position].uses)
        if len(names) <= MOST_CROSSING:
            found[position] = tuple(sorted(names))
    return found


def find_writers(steps: Iterable[Step], wanted: Iterable[str]) -> list[Step]:
    """Return, in order, those of the steps that the wanted values need."""
    needed, found = set(wanted), []
    for step in reversed(list(steps)):
        if not needed.isdisjoint(step.outputs):
            found.append(step)
            needed.update(step.uses)
    return found[::-1]
