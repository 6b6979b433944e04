"""How many channels a block has in a file whose convolutions lie in blocks: the shapes tell, else the machine at hand.

ONNX Runtime takes the size that its processor has, whatever the file was written for, and checks nothing; so a file of another
processor is refused here, before the runtime sees it.
"""

import functools
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

from schemas.errors import Fault, ModelRefused
from worker.engine.models.onnx.graph import Graph
from worker.engine.models.onnx.registry import BLOCKED
from worker.engine.models.program import Step, replace_steps, walk_steps

SIZES = (8, 16)
"""Channels in a block: AVX2 and NEON; AVX-512."""
CONV, LEAVE = f"{BLOCKED}.Conv", f"{BLOCKED}.ReorderOutput"


def set_block(graph: Graph) -> None:
    """Tell the steps that need it how many channels a block has.

    Raises:
        ModelRefused: the file was written for another processor than this one.
    """
    if not any(_is_blocked(step) for step in walk_steps(graph.steps)):
        return
    possible, own = find_blocks(graph), find_own_block()
    if own not in possible:
        shown = " or ".join(map(str, possible)) or "no size that is known"
        raise ModelRefused(
            Fault(
                "the model was optimised for another kind of processor: its channels lie in blocks of another size",
                "/model",
                f"blocks of {own} channels, as ONNX Runtime has them on this machine",
                shown,
                "save the optimised model with ONNX Runtime's level extended, or audit it on a machine like the one it runs on",
            )
        )
    graph.steps = replace_steps(
        graph.steps,
        lambda step: replace(step, attributes={**step.attributes, "block": own}) if "block" in step.attributes else step,
    )


def _is_blocked(step: Step) -> bool:
    return step.operator.startswith(f"{BLOCKED}.")


def find_blocks(graph: Graph) -> tuple[int, ...]:
    """Return the sizes of a block that every weight and every count of channels in the file agrees with."""
    steps = list(walk_steps(graph.steps))
    within = _find_blocked_values(steps)
    return tuple(size for size in SIZES if all(_agrees(step, graph, within, size) for step in steps))


def _find_blocked_values(steps: Iterable[Step]) -> dict[str, Step]:
    """Return the values whose channels lie in blocks, each with the step that makes it."""
    found: dict[str, Step] = {}
    for step in steps:
        if step.operator != LEAVE and (_is_blocked(step) or any(name in found for name in step.inputs)):
            found.update(dict.fromkeys(step.outputs, step))
    return found


def _agrees(step: Step, graph: Graph, within: dict[str, Step], size: int) -> bool:
    if step.operator == LEAVE:
        writer = within.get(step.inputs[0])
        shape = _find_shape(graph, writer) if writer is not None and writer.operator == CONV else None
        return shape is None or shape[0] == -(-step.attributes["channels"] // size) * size
    shape = _find_shape(graph, step) if step.operator == CONV else None
    if shape is None:
        return True
    outer, inner, groups = *shape[:2], step.attributes["arguments"]["groups"]
    direct = groups == 1 and inner < size  # reads plain channels
    whole = direct or (groups > 1 and inner == 1) or inner % size == 0
    return outer % size == 0 and whole and direct == (step.inputs[0] not in within)


def _find_shape(graph: Graph, step: Step) -> tuple[int, ...] | None:
    stored = graph.stored.get(step.inputs[1])
    return None if stored is None else tuple(stored.tensor.shape)


@functools.cache
def find_own_block() -> int:
    """Return how many channels a block has in ONNX Runtime on this machine, 1 where it has none."""
    node = helper.make_node("ReorderInput", ["x"], ["y"], domain=BLOCKED)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", [1, 4, 1, 1]), ("y", None))]
    graph = helper.make_graph([node], "block", values[:1], values[1:])
    imports = [helper.make_opsetid("", 20), helper.make_opsetid(BLOCKED, 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return int(np.shape(session.run(None, {"x": np.zeros((1, 4, 1, 1), np.float32)})[0])[1])
    except RuntimeError:
        return 1
