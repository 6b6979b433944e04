"""Whether what a model gives as its loss is one: a number per example, or the mean over all of them."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from schemas.errors import Fault
from worker.engine.models.program import Program
from worker.engine.objective import Objective
from worker.engine.shortage import is_out_of_memory

TOLERANCE = 1e-4
"""Largest |together - apart| / (1 + |together|): a loss that depends on who shares the batch differs by far more."""


def find_own_loss_faults(
    program: Program, batch: tuple[dict[str, Tensor], Tensor, Tensor], objective: Objective
) -> Iterator[Fault]:
    """Yield what is wrong with a loss that a model computes; batch: inputs, the output that the loss reads, and labels."""
    inputs, output, target = batch
    count, where = len(target), "/objective/output" if objective.program is None else "/objective/program/uri"

    def compute(part: slice) -> Tensor:
        given = {name: value[part] for name, value in inputs.items()}
        own = output[part] if output.ndim else objective.select_output(program.forward({}, given))
        return objective.compute_own_losses(own, target[part])

    try:
        with torch.no_grad():
            losses = objective.compute_own_losses(output, target)
            faults = list(_find_loss_faults(losses, count, where, objective.per_example))
            if not faults and objective.program is None and losses.ndim == 0 and program.batch is not None:
                advice = "export the model with a symbolic batch axis, or with one loss per example"
                what = "the model runs on one number of examples, and its one loss would count those that fill up the last batch"
                faults.append(Fault(what, "/objective/loss", "one loss per example", "one number", advice))
            yield from faults or _find_mixing(losses, count, where, compute)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        if is_out_of_memory(error):
            raise
        advice = "check shapes and dtypes of the model's output and of the labels against what the loss takes"
        why = str(error).strip().partition("\n")[0][:300]
        got = f"output {list(output.shape)} {output.dtype}, labels {list(target.shape)} {target.dtype}; {why}"
        yield Fault("the loss does not run on the first batch", where, "an output and labels that it takes", got, advice)


def _find_loss_faults(losses: Tensor, count: int, where: str, limits: tuple[str, ...]) -> Iterator[Fault]:
    """Yield why `losses`, of `count` examples, are none, or not enough for `limits`, which need one of every example."""
    if not losses.is_floating_point() or losses.shape not in {(), (count,)}:
        expected = f"one loss per example, [{count}], or one number, their mean"
        got = f"{list(losses.shape)} {str(losses.dtype).removeprefix('torch.')}"
        advice = "return a floating-point loss per example, with reduction='none' and the mean over all axes but the first"
        yield Fault("what was named as the loss is no loss", where, expected, got, advice)
    elif losses.ndim == 0:
        for field in limits:
            advice = f"return one loss per example (reduction='none'), or leave {field.strip('/')} out"
            what = f"{field.strip('/')} needs the loss of every example"
            yield Fault(what, field, "one loss per example", "one number for all", advice)


def _find_mixing(losses: Tensor, count: int, where: str, compute: Callable[[slice], Tensor]) -> Iterator[Fault]:
    """Yield a fault where examples apart give another loss than together: then it would depend on the micro-batch."""
    if count < 2:
        return
    half = count // 2
    first, second = compute(slice(0, half)), compute(slice(half, count))
    apart = torch.cat([first, second]) if losses.ndim else (half * first + (count - half) * second) / count
    difference = ((losses - apart).abs() / (1 + losses.abs())).nan_to_num()
    if not bool((difference <= TOLERANCE).all()):
        mixed = "the loss of an example depends on which others share its batch"
        what = mixed if losses.ndim else "the loss is one number for a batch, but not the mean over its examples"
        advice = "return one loss per example (reduction='none'), each of its own example only"
        yield Fault(what, where, "the same together and apart", f"a difference of {float(difference.max()):.3g}", advice)
