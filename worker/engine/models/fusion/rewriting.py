"""Fusion: steps that one kernel computes faster, for the interpreter only.

What a file spells out is put together again in a plan's steps. The kernels read the same weights and other values by name, so
nothing else changes. Numbers agree to rounding.
"""

from collections.abc import Iterable, Sequence

from worker.engine.models.fusion.kernels import FUSIONS, Fusion, Known
from worker.engine.models.fusion.matching import Dataflow
from worker.engine.models.program import Step


def fuse_steps(steps: Sequence[Step], wanted: Iterable[str], known: Known) -> tuple[Step, ...]:
    """Return steps that compute the same wanted values from the same values by fewer kernels."""
    names, found = tuple(wanted), tuple(steps)
    for fusion in FUSIONS:
        found = _apply(fusion, found, names, known)
    return found


def _apply(fusion: Fusion, steps: tuple[Step, ...], wanted: tuple[str, ...], known: Known) -> tuple[Step, ...]:
    flow = Dataflow(steps, wanted, known.constants)
    fused: dict[str, Step] = {}
    gone: set[str] = set()
    for step in steps:
        for match in flow.find(fusion.patterns, step):
            kernel = fusion.choose(match, known)
            names = {inner.name for inner in match.steps}
            if kernel is not None and gone.isdisjoint(names):
                fused[step.name] = Step(step.name, fusion.name, kernel.function, kernel.inputs, step.outputs, kernel.attributes)
                gone |= names
                break
    return tuple(fused.get(step.name, step) for step in steps if step.name in fused or step.name not in gone)
