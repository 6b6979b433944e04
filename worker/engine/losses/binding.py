"""Load the file that computes the loss, and find out what each of its inputs reads."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import ParamSpec, TypeVar

from schemas.errors import AuditError, Fault, ModelRefused
from worker.engine.losses.program import LossFile, LossProgram
from worker.engine.memory import check_file_fits
from worker.engine.models.load import load_program
from worker.engine.models.program import Program

WHERE = "/objective/program/uri"
ADVICE = "export a module whose forward(output, labels) returns one loss per example"
BY_NAME = "name every input but that of the labels like the output that it reads"

P = ParamSpec("P")
T = TypeVar("T")


def tell_objective(compute: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what `compute` gives; what it refuses is told as a fault of the loss, not of the audited model."""
    try:
        return compute(*args, **kwargs)
    except AuditError as error:
        raise type(error)(*map(_redirect, error.faults)) from error


def _redirect(fault: Fault) -> Fault:
    place = fault.where.removeprefix("/model")
    return replace(fault, what=f"the loss: {fault.what}", where=f"{WHERE}#{place}" if place else WHERE)


def load_loss(file: LossFile) -> LossProgram:
    """Return the loss, which reads nothing yet: its file is scanned and read as the audited model's is.

    Args:
        file: where it is.

    Returns:
        The loss.

    Raises:
        ModelRefused: it is no loss; also every AuditError of the audited model, told as a fault of the objective.
    """
    tell_objective(check_file_fits, file.path.stat().st_size)
    program = tell_objective(load_program, file.path, file.format)
    faults = list(_find_faults(program))
    if faults:
        raise ModelRefused(*faults)
    return LossProgram(program, file, labels=program.inputs[-1].name if program.inputs else None)


def _find_faults(program: Program) -> Iterator[Fault]:
    if not program.inputs:
        yield Fault("the loss takes no input", WHERE, "the model's output, and the labels", "none", ADVICE)
    if program.training:
        advice = "call eval() before you trace, script or export it"
        yield Fault("the loss carries operators in training mode", WHERE, "evaluation mode", "training mode", advice)
    if program.batch is not None or any(spec.shape and isinstance(spec.shape[0], int) for spec in program.inputs):
        advice = "export it with a symbolic first axis for outputs and labels"
        yield Fault("the loss runs on one number of examples only", WHERE, "any number", "a fixed first axis", advice)


def bind_loss(loss: LossProgram, outputs: Sequence[str], chosen: str, target: str | int | None) -> LossProgram:
    """Return the loss with what its inputs read: outputs by their names, the labels by that of their array or as what is left.

    Where no input is named like an output, the first one reads the chosen output and the second one, if there is one, the labels.

    Args:
        loss: the loss.
        outputs: the outputs of the audited model.
        chosen: the one that objective.output names.
        target: what data.target says.

    Returns:
        The loss, bound.

    Raises:
        ModelRefused: when an input could read this or that.
    """
    names = [spec.name for spec in loss.program.inputs if not spec.optional or spec.name in (*outputs, target)]
    reads = [(name, name) for name in names if name in outputs and name != target]
    rest = [name for name in names if (name, name) not in reads]
    if not reads:
        reads = [(name, chosen) for name in names if name != target][:1]
        rest = [name for name in names if (name, chosen) not in reads]
    if not reads or len(rest) > 1:
        expected = f"outputs of the model, {list(outputs)}, and the labels"
        raise ModelRefused(Fault("what the inputs of the loss read is not clear", WHERE, expected, str(names), BY_NAME))
    return replace(loss, reads=tuple(reads), labels=rest[0] if rest else None)
