"""load_onnx: from a file to a Program."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnx import ModelProto, NodeProto

from schemas.errors import Fault, ModelUnreadable, UnsupportedOperator
from worker.engine.models.onnx.archive import TensorReader, read_model
from worker.engine.models.onnx.blocks import set_block
from worker.engine.models.onnx.exporter import read_exporter
from worker.engine.models.onnx.faults import describe_reach
from worker.engine.models.onnx.files import find_files
from worker.engine.models.onnx.graph import Graph, read_graph
from worker.engine.models.onnx.modules import find_modules
from worker.engine.models.onnx.passes import drop_aliases, drop_unread, fold_integers, list_numbers, mark_dynamic
from worker.engine.models.onnx.quantised import (
    Quantised,
    cast_outputs,
    cut_mixed_codes,
    rounds_activations,
    set_limits,
    take_grids,
)
from worker.engine.models.onnx.standard import is_text, read_opsets
from worker.engine.models.onnx.uses import Uses
from worker.engine.models.onnx.weights import find_skipped
from worker.engine.models.program import Program, Step, walk_steps


def load_onnx(path: Path) -> Program:
    """Read an ONNX file into a Program.

    Args:
        path: the file, external data beside it under plain names; or a tar archive of both.

    Returns:
        The program, its weights under the file's own names in stored type and layout.

    Raises:
        ModelUnreadable: truncated, no ONNX file, or a graph that contradicts itself.
        ModelRefused: a limit is passed, or data must not be read.
        UnsupportedOperator: operators outside docs/onnx_operators.md, every one listed.
    """
    model = read_model(path)
    graph = read_graph(model, TensorReader(find_files(path)))
    program = _build_program(model, graph)
    if graph.unsupported:
        raise UnsupportedOperator(*graph.unsupported, *_measure_reach(program), partial=program)
    return program


def _measure_reach(program: Program) -> tuple[Fault, ...]:
    """Return what can be audited although operators are missing: the program's steps are those that reach an output."""
    read = {name for step in walk_steps(program.steps) for name in step.uses} | set(program.outputs)
    reached = sum(weight.numel() for name, weight in program.weights.items() if name in read)
    total = sum(weight.numel() for weight in program.weights.values())
    return (describe_reach(reached, total),) if total else ()


def _build_program(model: ModelProto, graph: Graph) -> Program:
    """Return the program of a graph; nodes that have no step leave holes."""
    graph.steps = drop_aliases(graph.steps, graph.operators, graph.outputs)
    quantised = _read_layouts(graph)
    set_limits(graph)
    cut_mixed_codes(graph)
    cast_outputs(graph)
    graph.steps = drop_aliases(graph.steps, graph.operators, graph.outputs)
    exporter, uses = read_exporter(model), Uses(graph.steps, graph.operators)
    skipped = find_skipped(graph, uses, exporter, quantised.numbers)
    weights = {name: entry.tensor for name, entry in graph.stored.items() if name not in skipped}
    listed = [*skipped.values(), *quantised.dropped.values()]
    constants: dict[str, Any] = {name: graph.stored[name].tensor for name in skipped} | quantised.constants
    steps, lists = list_numbers(graph.steps, graph.operators, constants)
    steps, folded = fold_integers(steps, constants)
    steps = mark_dynamic(drop_unread(steps, graph.outputs), graph.operators, {*constants, *lists, *folded})
    return Program(
        format="onnx",
        producer=" ".join(part for part in (model.producer_name, model.producer_version) if part and is_text(part)),
        opset=read_opsets(model.opset_import).get(""),
        inputs=graph.inputs,
        outputs=graph.outputs,
        weights=weights,
        constants=_keep_read({**constants, **lists, **folded}, steps, graph.outputs),
        steps=steps,
        modules=find_modules(weights, uses, graph.scopes, exporter),
        skipped=tuple(entry for entry in listed if entry.reason != "integer" or entry.weights > 1),
        rounds=rounds_activations(graph),
        training=is_training(steps, constants),
        nodes={step.name: _copy_node(*graph.nodes[step.name]) for step in steps if step.name in graph.nodes},
        grids={name: grid for name, grid in quantised.grids.items() if name in weights},
    )


def _read_layouts(graph: Graph) -> Quantised:
    """Find out how stored weights lie, in blocks of channels or on grids; what does not fit together contradicts itself."""
    try:
        set_block(graph)
        return take_grids(graph)
    except (ArithmeticError, IndexError, RuntimeError, TypeError, ValueError) as error:
        expected, advice = "sizes and types that fit together", "check that ONNX Runtime runs the model"
        got = str(error).split("\n", maxsplit=1)[0][:200]
        raise ModelUnreadable(
            Fault("stored weights do not fit the scales or blocks that they are read with", "/model", expected, got, advice)
        ) from error


def _copy_node(node: NodeProto, opset: int) -> tuple[NodeProto, int]:
    copy = NodeProto()  # the original would keep the whole file in memory
    copy.CopyFrom(node)
    return copy, opset


def _keep_read(constants: Mapping[str, Any], steps: tuple[Step, ...], outputs: tuple[str, ...]) -> dict[str, Any]:
    read = {name for step in walk_steps(steps) for name in step.inputs} | set(outputs)
    read |= {name for step in walk_steps(steps) for block in step.blocks for name in block.outputs}
    return {name: value for name, value in constants.items() if name in read}


def is_training(steps: tuple[Step, ...], constants: Mapping[str, Any]) -> bool:
    """Whether an operator runs in training mode: statistics that update, or a Dropout that may drop."""
    return any(_trains(step, constants) for step in walk_steps(steps))


def _trains(step: Step, constants: Mapping[str, Any]) -> bool:
    if step.operator == "BatchNormalization":
        return bool(step.attributes["training"])
    if step.operator != "Dropout" or len(step.inputs) < 3 or not step.inputs[2]:
        return False
    flag = constants.get(step.inputs[2])
    return flag is None or bool(flag)
