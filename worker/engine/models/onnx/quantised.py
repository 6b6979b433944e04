"""Quantised files: integers behind a DequantizeLinear are weights on a grid, and rounded activations pass gradients on."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from worker.engine.models.onnx.graph import Graph, Stored
from worker.engine.models.onnx.operators import TABLE
from worker.engine.models.onnx.operators.quantisation import PAIR, build_grid
from worker.engine.models.onnx.registry import NEWEST_OPSET
from worker.engine.models.onnx.uses import Uses
from worker.engine.models.program import Grid, SkippedTensor, Step, walk_steps

READ, WRITE = "DequantizeLinear", "QuantizeLinear"


def take_grids(graph: Graph) -> tuple[dict[str, Grid], dict[str, SkippedTensor]]:
    """Turn stored integers that one grid reads into weights, and their readers into aliases.

    The weight keeps the integers' stored name and holds (code - zero_point) * scale. Integers that anything else reads too,
    or with another scale, stay integers.

    Returns:
        The grids by weight name, and the scales and zero points that nothing reads any more.
    """
    uses = Uses(graph.steps, graph.operators)
    grids: dict[str, Grid] = {}
    taken: dict[str, Step] = {}
    for name, stored in list(graph.stored.items()):
        readers = uses.find_direct(name)
        asked = {(use.step.operator, use.slot, use.step.inputs[1:], use.step.attributes.get("axis")) for use in readers}
        if len(asked) != 1 or stored.tensor.is_floating_point() or (readers[0].step.operator, readers[0].slot) != (READ, 0):
            continue
        grid = _read_grid(graph, stored, readers[0].step)
        if grid is not None and grid.bits in {8, 32}:
            grids[name] = grid
            graph.stored[name] = Stored(grid.decode(grid.codes), stored.origin)
            taken.update((use.step.name, use.step) for use in readers)
    _hand_on(graph, set(taken))
    return grids, _drop_unread(graph, {name for step in taken.values() for name in step.inputs[1:]})


def _hand_on(graph: Graph, taken: set[str]) -> None:
    identity = TABLE.find("", "Identity", NEWEST_OPSET)
    if identity is None:
        message = "the table lacks Identity"
        raise RuntimeError(message)
    graph.operators.update(dict.fromkeys(taken, identity))

    def convert(step: Step) -> Step:
        if step.name not in taken:
            return step
        return replace(step, operator=identity.title, function=identity.function, inputs=step.inputs[:1], attributes={})

    graph.steps = _replace_steps(graph.steps, convert)


def _drop_unread(graph: Graph, names: set[str]) -> dict[str, SkippedTensor]:
    read = {name for step in walk_steps(graph.steps) for name in step.uses}
    dropped = {name: stored.tensor for name, stored in graph.stored.items() if name in names - read}
    for name in dropped:
        del graph.stored[name]
    reasons = {name: "not_a_weight" if tensor.is_floating_point() else "integer" for name, tensor in dropped.items()}
    return {name: SkippedTensor(name, tensor.numel(), reasons[name]) for name, tensor in dropped.items()}


def _read_grid(graph: Graph, stored: Stored, step: Step) -> Grid | None:
    """Return the grid whose scale and zero point the file stores, or None."""
    scale, *rest = step.inputs[1:]
    if scale not in graph.stored or (rest and rest[0] and rest[0] not in graph.stored):
        return None
    zero_point = graph.stored[rest[0]].tensor if rest and rest[0] else None
    return build_grid(stored.tensor, graph.stored[scale].tensor, zero_point, step.attributes["axis"])


def join_pairs(graph: Graph) -> None:
    """Let each DequantizeLinear of what a QuantizeLinear of the same grid wrote round in one step, straight through."""
    writers = {step.outputs[0]: step for step in walk_steps(graph.steps) if step.operator == WRITE}

    def join(step: Step) -> Step:
        first = writers.get(step.inputs[0]) if step.operator == READ else None
        if first is None or first.inputs[1:] != step.inputs[1:] or first.attributes["axis"] != step.attributes["axis"]:
            return step
        graph.operators[step.name] = PAIR
        return replace(step, operator=PAIR.name, function=PAIR.function, inputs=first.inputs, attributes=first.attributes)

    graph.steps = _replace_steps(graph.steps, join)


def _replace_steps(steps: Sequence[Step], convert: Callable[[Step], Step]) -> tuple[Step, ...]:
    """Return the steps converted, those inside blocks first."""
    return tuple(
        convert(
            replace(step, blocks=tuple(replace(block, steps=_replace_steps(block.steps, convert)) for block in step.blocks))
            if step.blocks
            else step
        )
        for step in steps
    )
