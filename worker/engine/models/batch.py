"""Models that run on one number of examples only: fewer are filled up with copies of the last, whose outputs are cut off."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from worker.engine.models.program import InputSpec, Program

PROBED = (1, *(2**n for n in range(1, 9)), 3, 5, 6, 7, 10, 12, 20, 24, 48, 50, 96, 100, 192, 200)
"""Sizes that a model may have been traced with, which its file does not tell."""

Inputs = Mapping[str, Any]


def find_fixed_batch(inputs: Iterable["InputSpec"]) -> int | None:
    """Return the first axis that all inputs declare, None where one leaves it open or they differ."""
    sizes = {spec.shape[0] if spec.shape else None for spec in inputs}
    return sizes.pop() if len(sizes) == 1 else None


def count_examples(inputs: Inputs) -> int:
    """Return how many examples the inputs hold."""
    return max((len(value) for value in inputs.values() if isinstance(value, Tensor) and value.ndim), default=0)


def fill_batch(inputs: Inputs, batch: int | None) -> dict[str, Any]:
    """Return the inputs with as many examples as the model runs on, the last one repeated.

    >>> fill_batch({"x": torch.tensor([1.0, 2.0])}, 4)["x"].tolist()
    [1.0, 2.0, 2.0, 2.0]
    """
    if batch is None:
        return dict(inputs)
    return {name: _fill(value, batch) if isinstance(value, Tensor) and value.ndim else value for name, value in inputs.items()}


def _fill(value: Tensor, batch: int) -> Tensor:
    missing = batch - len(value)
    if missing < 0:
        message = f"the model runs on {batch} examples at once, {len(value)} were given"
        raise ValueError(message)
    return value if missing == 0 else torch.cat([value, value[-1:].expand(missing, *value.shape[1:])])


def cut_batch(outputs: Mapping[str, Any], batch: int | None, count: int) -> dict[str, Any]:
    """Return the outputs without what belongs to the copies: no loss counts it, and no gradient comes from it."""
    if batch is None or count == batch:
        return dict(outputs)
    return {name: _cut(value, batch, count) for name, value in outputs.items()}


def _cut(value: Any, batch: int, count: int) -> Any:
    return value[:count] if isinstance(value, Tensor) and value.ndim and len(value) == batch else value


def probe_batch(program: "Program", inputs: Inputs, run: Callable[["Program", Inputs], Tensor]) -> "Program":
    """Return the program, with the number of examples that it runs on where it runs on one number only.

    A traced model may have its size written into a reshape while nothing declares it.

    Args:
        program: a program without a declared size.
        inputs: one example or more.
        run: gives the output that has a row per example, and raises where the model does not run.

    Returns:
        The same program where it runs on one example and on two, or on no size that is tried.
    """
    if all(_runs(program, inputs, size, run) for size in (1, 2)):
        return program
    found = next((size for size in PROBED if _runs(program, inputs, size, run)), None)
    return program if found is None else replace(program, batch=found)


def _runs(program: "Program", inputs: Inputs, size: int, run: Callable[["Program", Inputs], Tensor]) -> bool:
    given = {name: value[:1] if isinstance(value, Tensor) and value.ndim else value for name, value in inputs.items()}
    try:
        output = run(program, fill_batch(given, size))
    except (RuntimeError, TypeError, ValueError, IndexError):
        return False
    return output.ndim > 0 and len(output) == size
