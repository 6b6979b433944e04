"""Control flow: blocks of steps that run once, many times, or not at all."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from schemas.errors import Fault, ModelRefused
from worker.engine.models.onnx.registry import Family, Node

operator = Family("control flow")

MAX_TURNS = 50_000
"""An audit runs a model thousands of times: a loop longer than this is endless for it."""

Runner = Callable[..., tuple[Any, ...]]


def _no_arguments(_: Node) -> dict[str, Any]:
    return {}


@operator("If", blocks=("then_branch", "else_branch"), prepare=_no_arguments, many=True)
def branch(runners: tuple[Runner, ...], condition: Tensor) -> tuple[Any, ...]:
    """Run one of two blocks."""
    return runners[0]() if bool(condition) else runners[1]()


def _count_outputs(node: Node) -> dict[str, int]:
    return {"carried": max(0, len(node.inputs) - 2), "outputs": len(node.outputs)}


@operator("Loop", since=1, blocks=("body",), prepare=_count_outputs, many=True, dynamic_shape=True)
def loop(
    runners: tuple[Runner, ...],
    limit: Tensor | None = None,
    condition: Tensor | None = None,
    *values: Any,
    carried: int,
    outputs: int,
) -> tuple[Any, ...]:
    """Run a block while its condition holds, at most `limit` times; what it computes besides the state is stacked."""
    state = list(values)
    rows: list[tuple[Any, ...]] = []
    going = condition is None or bool(condition)
    count = None if limit is None else int(limit)
    turn = 0
    while going and (count is None or turn < count):
        if turn == MAX_TURNS:
            advice = "unroll the loop, or give it a limit"
            raise ModelRefused(Fault("a Loop does not end", "/model", f"at most {MAX_TURNS} turns", "more", advice))
        again, *results = runners[0](torch.tensor(turn), torch.tensor(going), *state)
        state, row = results[:carried], tuple(results[carried:])
        rows.append(row)
        going = again is None or bool(again)
        turn += 1
    if rows:
        return (*state, *(torch.stack(column) for column in zip(*rows, strict=True)))
    if outputs > carried:
        message = "a Loop without turns has stacked outputs of unknown shape"
        raise RuntimeError(message)
    return tuple(state)


def _read_scan(node: Node) -> dict[str, Any]:
    get = node.attributes.get
    sequences = node.attributes["num_scan_inputs"]
    states = len(node.inputs) - sequences
    stacked = len(node.outputs) - states
    return {
        "states": states,
        "in_axes": get("scan_input_axes", (0,) * sequences),
        "in_backward": get("scan_input_directions", (0,) * sequences),
        "out_axes": get("scan_output_axes", (0,) * stacked),
        "out_backward": get("scan_output_directions", (0,) * stacked),
    }


@operator("Scan", since=9, blocks=("body",), prepare=_read_scan, many=True)
def scan(
    runners: tuple[Runner, ...],
    *values: Tensor,
    states: int,
    in_axes: Sequence[int],
    in_backward: Sequence[int],
    out_axes: Sequence[int],
    out_backward: Sequence[int],
) -> tuple[Any, ...]:
    """Run a block over the slices of some inputs, carrying a state."""
    state = list(values[:states])
    slices = [list(x.unbind(axis)) for x, axis in zip(values[states:], in_axes, strict=True)]
    columns = [pieces[::-1] if backward else pieces for pieces, backward in zip(slices, in_backward, strict=True)]
    rows = []
    for row in zip(*columns, strict=True):
        results = runners[0](*state, *row)
        state = list(results[:states])
        rows.append(results[states:])
    stacked = []
    for column, axis, backward in zip(zip(*rows, strict=True), out_axes, out_backward, strict=True):
        first = column[0]
        pieces = column[::-1] if backward else column
        stacked.append(torch.stack(pieces, axis if axis >= 0 else axis + first.ndim + 1))
    return (*state, *stacked)


def _read_batched_scan(node: Node) -> dict[str, Any]:
    sequences = node.attributes["num_scan_inputs"]
    states = len(node.inputs) - sequences - 1
    backward = node.attributes.get("directions", (0,) * sequences)
    return {
        "states": states,
        "in_axes": (0,) * sequences,
        "in_backward": backward,
        "out_axes": (0,) * (len(node.outputs) - states),
    }


@operator("Scan", since=8, until=9, blocks=("body",), prepare=_read_batched_scan, many=True)
def scan_batch(
    runners: tuple[Runner, ...],
    lengths: Tensor | None,
    *values: Tensor,
    states: int,
    in_axes: Sequence[int],
    in_backward: Sequence[int],
    out_axes: Sequence[int],
) -> tuple[Any, ...]:
    """Run a block over each example's own slices; beyond an example's length its outputs are zero."""
    examples = []
    total = values[-1].shape[1]
    for n in range(values[-1].shape[0]):
        length = total if lengths is None else int(lengths[n])
        pieces = [value[n] if place < states else value[n, :length] for place, value in enumerate(values)]
        found = scan(
            runners, *pieces, states=states, in_axes=in_axes, in_backward=in_backward, out_axes=out_axes, out_backward=out_axes
        )
        padding = [(0, 0) * (column.ndim - 1) + (0, total - length) for column in found[states:]]
        rows = [functional.pad(column, pads) for column, pads in zip(found[states:], padding, strict=True)]
        examples.append((*found[:states], *rows))
    return tuple(torch.stack(column) for column in zip(*examples, strict=True))


@operator("SequenceConstruct", since=11)
def make_sequence(*values: Tensor) -> list[Tensor]:
    """Make a list of tensors."""
    return list(values)


@operator("SequenceEmpty", since=11, prepare=_no_arguments)
def make_empty_sequence() -> list[Tensor]:
    """Make an empty list."""
    return []


@operator("SequenceLength", since=11, dynamic_shape=True)
def count_sequence(sequence: list[Tensor]) -> Tensor:
    """Count the tensors of a list."""
    return torch.tensor(len(sequence))


@operator("SequenceAt", since=11, dynamic_shape=True)
def pick_from_sequence(sequence: list[Tensor], place: Tensor) -> Tensor:
    """Take one tensor of a list."""
    return sequence[int(place)]


@operator("SequenceInsert", since=11, dynamic_shape=True)
def insert_into_sequence(sequence: list[Tensor], value: Tensor, place: Tensor | None = None) -> list[Tensor]:
    """Put one tensor into a list, at the end by default."""
    at = len(sequence) if place is None else int(place)
    at = at + len(sequence) if at < 0 else at
    return [*sequence[:at], value, *sequence[at:]]


@operator("SequenceErase", since=11, dynamic_shape=True)
def erase_from_sequence(sequence: list[Tensor], place: Tensor | None = None) -> list[Tensor]:
    """Take one tensor out of a list, the last by default."""
    at = len(sequence) - 1 if place is None else int(place) % len(sequence)
    return [*sequence[:at], *sequence[at + 1 :]]


@operator("ConcatFromSequence", since=11, dynamic_shape=True)
def concat_sequence(sequence: list[Tensor], *, axis: int, new_axis: int = 0) -> Tensor:
    """Join a list along an axis, an existing or a new one."""
    return torch.stack(sequence, axis) if new_axis else torch.cat(sequence, axis)


@operator("SplitToSequence", since=11, dynamic_shape=True)
def split_to_sequence(x: Tensor, sizes: Tensor | None = None, *, axis: int = 0, keepdims: int = 1) -> list[Tensor]:
    """Cut along an axis into a list."""
    if sizes is None:
        pieces = list(x.split(1, axis))
        return pieces if keepdims else [piece.squeeze(axis) for piece in pieces]
    return list(x.split(int(sizes) if sizes.ndim == 0 else sizes.tolist(), axis))


def _count_mapped(node: Node) -> dict[str, int]:
    return {"outputs": len(node.outputs)}


@operator("SequenceMap", since=17, blocks=("body",), prepare=_count_mapped, many=True, dynamic_shape=True)
def map_sequence(runners: tuple[Runner, ...], first: list[Tensor], *others: Any, outputs: int) -> tuple[list[Any], ...]:
    """Run a block on each tensor of a list; further lists are walked alongside, further tensors are handed on."""
    rows = [
        runners[0](value, *(other[n] if isinstance(other, list) else other for other in others)) for n, value in enumerate(first)
    ]
    return tuple([row[column] for row in rows] for column in range(outputs))


@operator("Optional", since=15, prepare=_no_arguments)
def make_optional(value: Any = None) -> Any:
    """Make an optional of a value, or of nothing."""
    return value


@operator("OptionalHasElement", since=15)
def has_element(value: Any = None) -> Tensor:
    """Whether an optional value is there."""
    return torch.tensor(value is not None)


@operator("OptionalGetElement", since=15, alias=True)
def get_element(value: Any) -> Any:
    """Return the value of an optional that is there."""
    if value is None:
        message = "an optional value that is read is not there"
        raise RuntimeError(message)
    return value
