"""Patterns of steps: small trees of operators that are looked for in a program's dataflow, by what they compute."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from worker.engine.models.program import OMITTED, Step

NUMBERS = ("other", "exponent", "value")
"""Attributes that are an operator's last operand, written as a number."""

SINGLE, DOUBLE = 2**-23, 2**-52
"""Rounding of a number, as a share of it. A float32 number in a float64 program is another number than the one meant."""


@dataclass(frozen=True)
class Value:
    """Any value, remembered under a name; wherever the name is used again it must be the same value."""

    name: str


@dataclass(frozen=True)
class Number:
    """A single number that neither data nor weights change. near: what it must be, up to rounding in its own type."""

    name: str
    near: float | None = None
    test: Callable[[float], bool] = lambda number: True  # noqa: ARG005 - any number


@dataclass(frozen=True)
class Operation:
    """One of several operators on operands that fit; `swaps`: their order does not matter. test: of the step's attributes."""

    kinds: frozenset[str]
    operands: tuple["Pattern", ...]
    swaps: bool = False
    test: Callable[[Mapping[str, Any]], bool] = lambda attributes: True  # noqa: ARG005 - any attributes


Pattern = Value | Number | Operation | tuple["Pattern", ...]
"""A tuple: any one of these."""


@dataclass(frozen=True)
class Match:
    """What fits a pattern: its values and numbers by name, and the steps that compute it, the last one first."""

    values: Mapping[str, str] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()


class Dataflow:
    """Who makes and who reads each value of a list of steps. constants: the values that nothing changes."""

    def __init__(self, steps: Sequence[Step], wanted: Iterable[str], constants: Mapping[str, Any]) -> None:
        self._makers = {name: step for step in steps for name in step.outputs if name != OMITTED}
        self._readers: dict[str, list[str]] = {name: ["the caller"] for name in wanted}
        for step in steps:
            for name in step.uses:
                self._readers.setdefault(name, []).append(step.name)
        self._constants = constants

    def find(self, patterns: Sequence[Operation], step: Step) -> Iterator[Match]:
        """Yield how a pattern ends in this step, where nothing else reads a value that it makes on the way."""
        for pattern in patterns:
            if step.kind not in pattern.kinds:
                continue
            for match in self._fit_step(pattern, step, Match()):
                names = {inner.name for inner in match.steps}
                made = [name for inner in match.steps if inner is not step for name in inner.outputs]
                if all(names.issuperset(self._readers[name]) for name in made):
                    yield match

    def _fit(self, pattern: Pattern, operand: str | float, match: Match) -> Iterator[Match]:
        if isinstance(pattern, Value):
            if isinstance(operand, str) and match.values.get(pattern.name, operand) == operand:
                yield Match({**match.values, pattern.name: operand}, match.numbers, match.steps)
        elif isinstance(pattern, Number):
            number = self._read_number(operand, pattern.near)
            if number is not None and pattern.test(number):
                yield Match(match.values, {**match.numbers, pattern.name: number}, match.steps)
        elif isinstance(pattern, tuple):
            for choice in pattern:
                yield from self._fit(choice, operand, match)
        elif isinstance(operand, str) and operand in self._makers:
            yield from self._fit_step(pattern, self._makers[operand], match)

    def _fit_step(self, pattern: Operation, step: Step, match: Match) -> Iterator[Match]:
        if step.kind == "dropout" and step.attributes.get("train") is False:
            for further in self._fit(pattern, step.inputs[0], match):
                yield Match(further.values, further.numbers, (step, *further.steps))
            return
        operands = [*step.inputs, *(step.attributes[name] for name in NUMBERS if name in step.attributes)]
        fits = step.kind in pattern.kinds and len(operands) == len(pattern.operands) and pattern.test(step.attributes)
        if not fits or len(step.outputs) != 1 or step.blocks or step.mutates or step.dynamic_shape:
            return
        begun = Match(match.values, match.numbers, (*match.steps, step))
        for order in (operands, operands[::-1])[: 1 + pattern.swaps]:
            yield from self._fit_all(pattern.operands, order, begun)

    def _fit_all(self, patterns: Sequence[Pattern], operands: Sequence[str | float], match: Match) -> Iterator[Match]:
        if not patterns:
            yield match
            return
        for further in self._fit(patterns[0], operands[0], match):
            yield from self._fit_all(patterns[1:], operands[1:], further)

    def _read_number(self, operand: str | float, near: float | None) -> float | None:
        value = self._constants.get(operand) if isinstance(operand, str) else operand
        rounding = DOUBLE
        if isinstance(value, Tensor) and value.numel() == 1:
            rounding = SINGLE if value.dtype == torch.float32 else DOUBLE
            value = value.item()
        if not isinstance(value, int | float):
            return None
        return float(value) if near is None or math.isclose(value, near, rel_tol=rounding) else None
