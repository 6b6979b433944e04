"""Program: one model as an ordered list of operators over named weights, run by a small interpreter.

Both loaders (ONNX, TorchScript) produce a Program; everything downstream sees only this face:

    program.forward(parameters, inputs) -> outputs

`parameters` holds tensors for some or all weights (the others stay clean), so corruption, autograd
and partial re-evaluation are all a matter of what is in that dictionary.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from worker.engine.models.batch import count_examples, cut_batch, fill_batch

OMITTED = ""
"""The name of an optional input that is not given (its value is None) or of an output nobody reads."""

Environment = dict[str, Any]


class OnDemand(Environment):
    """An environment in which what is missing is made, by its name, each time that it is read."""

    def __init__(self, make: Callable[[str], Any]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, name: str) -> Any:
        return self._make(name)

    def copy(self) -> "OnDemand":
        """Return an environment of its own that makes the same, with nothing in it."""
        return OnDemand(self._make)


@dataclass(frozen=True)
class Block:
    """A list of steps with formal inputs and outputs; names it does not define are the surrounding block's."""

    inputs: tuple[str, ...]
    steps: tuple["Step", ...]
    outputs: tuple[str, ...]


class Likeness(NamedTuple):
    """The plain operator whose work an operator does, in lower case, and which of its own inputs are that operator's."""

    kind: str
    slots: tuple[int, ...]


@dataclass(frozen=True)
class Step:
    """One operator.

    `function(*inputs, **attributes)` returns the output, or a tuple when there are several outputs.
    A control-flow step has `blocks`; its function gets a first argument more, a tuple of callables,
    one per block: `run(*block_inputs) -> tuple of block outputs`.
    """

    name: str
    operator: str
    function: Callable[..., Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    blocks: tuple[Block, ...] = ()
    shape_only: bool = False
    """The result depends on the inputs' shapes and dtypes, not on their values (Shape, aten::size)."""
    dynamic_shape: bool = False
    """The result's shape depends on values (NonZero) or the result is random: nothing after it may be cached."""
    mutates: bool = False
    """Writes into an input: the program is then never split, and its inputs are copied first."""
    like: Likeness | None = None
    """What the step does on real numbers, where its operator works on the integers of a grid."""

    @cached_property
    def kind(self) -> str:
        """The operator in lower case, without domain and outer underscores: Conv and aten::_conv are one kind."""
        return re.split(r"::|\.", self.operator)[-1].strip("_").lower()

    @property
    def plain_kind(self) -> str:
        """The kind of the plain operator whose work the step does."""
        return self.kind if self.like is None else self.like.kind

    @property
    def operands(self) -> tuple[str, ...]:
        """The inputs, as the plain operator has them."""
        if self.like is None:
            return self.inputs
        return tuple(self.inputs[slot] for slot in self.like.slots if slot < len(self.inputs))

    @cached_property
    def uses(self) -> tuple[str, ...]:
        """Every outer name that the step reads, its blocks' captured names included."""
        names = [name for name in self.inputs if name != OMITTED]
        for block in self.blocks:
            defined = set(block.inputs)
            for inner in block.steps:
                names += [name for name in inner.uses if name not in defined]
                defined.update(inner.outputs)
            names += [name for name in block.outputs if name not in defined]
        return tuple(dict.fromkeys(names))


@dataclass(frozen=True)
class InputSpec:
    """A model input. A dimension is an int, or None where any size goes."""

    name: str
    dtype: torch.dtype | None
    shape: tuple[int | None, ...] | None
    optional: bool = False


@dataclass(frozen=True)
class SkippedTensor:
    """A stored tensor that is no auditable weight; `reason` is one of schemas.report.SkipReason."""

    name: str
    weights: int
    reason: str


@dataclass(frozen=True)
class Grid:
    """How the file stores a weight: value = (code - zero_point) * step.

    codes: the stored integers, in stored type and shape; step and zero_point are broadcastable to them.
    narrow: the bits of a code where it has fewer than its type.
    """

    codes: Tensor
    step: Tensor
    zero_point: Tensor
    narrow: int = 0

    @property
    def bits(self) -> int:
        """The width of a code."""
        return self.narrow or self.codes.dtype.itemsize * 8

    @property
    def type_name(self) -> str:
        """What the file calls the type of a code, such as int8 or uint4."""
        return f"{'' if self.signed else 'u'}int{self.bits}"

    @property
    def signed(self) -> bool:
        """Whether the codes are two's complement."""
        return self.codes.dtype.is_signed

    def decode(self, codes: Tensor) -> Tensor:
        """Return the values behind codes, in the type of the step."""
        if self.zero_point.is_floating_point():
            return (codes.to(self.step.dtype) - self.zero_point) * self.step
        return (codes.long() - self.zero_point.long()).to(self.step.dtype) * self.step

    def map(self, convert: Callable[[Tensor], Tensor]) -> "Grid":
        """Return the grid with each tensor converted."""
        return Grid(convert(self.codes), convert(self.step), convert(self.zero_point), self.narrow)


@dataclass(frozen=True)
class Half:
    """How the file stores a weight: as a float of 16 bits; its value is in float32 here."""

    dtype: torch.dtype

    @property
    def type_name(self) -> str:
        """What the file calls the type."""
        return str(self.dtype).removeprefix("torch.")


Storage = Grid | Half


@dataclass(frozen=True)
class Program:
    """A model in the engine's one form.

    weights: the auditable floating-point tensors under the file's own names, in stored dtype and layout.
    constants: every other value the steps read by name (integers, running statistics, scalars, lists, strings).
    modules: weight name -> module name (contract: the dotted prefix, or the exporter's scope).
    grids: weight name -> how the file stores it, for weights stored as integers; `weights` has their values.
    halves: the same for weights stored as 16-bit floats.
    """

    format: str
    producer: str
    opset: int | None
    inputs: tuple[InputSpec, ...]
    outputs: tuple[str, ...]
    weights: dict[str, Tensor]
    constants: dict[str, Any]
    steps: tuple[Step, ...]
    modules: dict[str, str]
    skipped: tuple[SkippedTensor, ...] = ()
    training: bool = False
    """The file carries operators in training mode (dropout that drops, statistics that update)."""
    saved_in_training: bool = False
    """The module was saved in training mode, but every operator follows evaluation mode now."""
    batch: int | None = None
    """The only number of examples that the model runs on; None where any number will do."""
    rounds: bool = False
    """Values inside are rounded to a grid: one that lies between two codes to the last bit may fall to either."""
    grids: dict[str, Grid] = field(default_factory=dict)
    halves: dict[str, Half] = field(default_factory=dict)
    spacing: float = 0.0
    """The relative spacing of the 16-bit floats that the file's own runtime computes in; 0 where it computes in float32."""
    statistics: frozenset[str] = frozenset()
    """Those weights that are running statistics, where the audit asked for them (running.py)."""
    nodes: Mapping[str, Any] = field(default_factory=dict)
    """ONNX files: the file's node behind a step and its opset, by step name. Empty once the program is cast."""

    def forward(self, parameters: Mapping[str, Tensor], inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Run the whole program; weights missing from `parameters` keep their stored values."""
        environment: Environment = {**self.constants, **self.weights, **parameters, OMITTED: None}
        copied, filled = self.mutates, fill_batch(inputs, self.batch)
        for spec in self.inputs:
            value = filled.get(spec.name)
            environment[spec.name] = value.clone() if copied and isinstance(value, Tensor) else value
        run_steps(self.steps, environment, self._drops)
        return cut_batch({name: environment[name] for name in self.outputs}, self.batch, count_examples(inputs))

    @property
    def storage(self) -> dict[str, Storage]:
        """How the file stores those weights that it does not store as floats of their own type."""
        return {**self.halves, **self.grids}

    @cached_property
    def _drops(self) -> tuple[tuple[str, ...], ...]:
        return find_last_uses(self.steps, self.outputs)

    @cached_property
    def mutates(self) -> bool:
        """Whether any step writes into one of its inputs."""
        return any(step.mutates for step in walk_steps(self.steps))

    def to(self, device: torch.device | str) -> "Program":
        """Return the program with weights and constants on `device`; integers of at most 64 elements stay on the CPU."""
        return self.map_values(lambda tensor: tensor if _is_small_integer(tensor) else tensor.to(device), lambda dtype: dtype)

    def cast(self, dtype: torch.dtype) -> "Program":
        """Return the program with every float32 weight, constant and dtype attribute replaced by `dtype`."""
        cast = self.map_values(
            lambda tensor: tensor.to(dtype) if tensor.dtype == torch.float32 else tensor,
            lambda given: dtype if given == torch.float32 else given,
        )
        return replace(cast, nodes={})

    def map_values(self, tensor: Callable[[Tensor], Tensor], dtype: Callable[[torch.dtype], torch.dtype]) -> "Program":
        """Return the program with every tensor and every dtype attribute converted."""

        def convert(value: Any) -> Any:
            if isinstance(value, Tensor):
                return tensor(value)
            if isinstance(value, torch.dtype):
                return dtype(value)
            if type(value) in {list, tuple}:
                return type(value)(convert(entry) for entry in value)
            return value

        def convert_block(block: Block) -> Block:
            return replace(block, steps=tuple(convert_step(step) for step in block.steps))

        def convert_step(step: Step) -> Step:
            attributes = {name: convert(value) for name, value in step.attributes.items()}
            return replace(step, attributes=attributes, blocks=tuple(convert_block(block) for block in step.blocks))

        return replace(
            self,
            inputs=tuple(replace(spec, dtype=spec.dtype and dtype(spec.dtype)) for spec in self.inputs),
            weights={name: tensor(value) for name, value in self.weights.items()},
            constants={name: convert(value) for name, value in self.constants.items()},
            steps=tuple(convert_step(step) for step in self.steps),
            grids={name: grid.map(tensor) for name, grid in self.grids.items()},
        )


def _is_small_integer(tensor: Tensor) -> bool:
    # Shape arithmetic on the CPU costs no device synchronisation.
    return not tensor.is_floating_point() and tensor.numel() <= 64


def replace_steps(steps: Iterable[Step], convert: Callable[[Step], Step]) -> tuple[Step, ...]:
    """Return the steps converted, those inside blocks first."""
    return tuple(
        convert(
            replace(step, blocks=tuple(replace(block, steps=replace_steps(block.steps, convert)) for block in step.blocks))
            if step.blocks
            else step
        )
        for step in steps
    )


def rename_values(steps: Iterable[Step], names: Mapping[str, str]) -> tuple[Step, ...]:
    """Return the steps with other names for some values, inside blocks too."""

    def convert(step: Step) -> Step:
        inputs = tuple(names.get(name, name) for name in step.inputs)
        outputs = tuple(names.get(name, name) for name in step.outputs)
        blocks = tuple(replace(block, outputs=tuple(names.get(name, name) for name in block.outputs)) for block in step.blocks)
        return replace(step, inputs=inputs, outputs=outputs, blocks=blocks)

    return replace_steps(steps, convert) if names else tuple(steps)


def walk_steps(steps: Iterable[Step]) -> Iterable[Step]:
    """Yield every step, those inside blocks included."""
    for step in steps:
        yield step
        for block in step.blocks:
            yield from walk_steps(block.steps)


def find_last_uses(steps: Sequence[Step], kept: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    """Return, per step, the names made by these steps that nothing reads after it: they can be freed."""
    wanted = set(kept) | {OMITTED}
    made = {name for step in steps for name in step.outputs}
    drops: list[tuple[str, ...]] = []
    for step in reversed(steps):
        dead = {name for name in (*step.uses, *step.outputs) if name in made and name not in wanted}
        wanted |= dead
        drops.append(tuple(sorted(dead)))
    return tuple(reversed(drops))


def run_steps(steps: Sequence[Step], environment: Environment, drops: Sequence[tuple[str, ...]]) -> None:
    """Run `steps` in order over `environment`, freeing each name in `drops` after its last use."""
    read = environment.__getitem__
    for step, dead in zip(steps, drops, strict=True):
        if step.blocks:
            runners = tuple(_bind_block(block, environment) for block in step.blocks)
            result = step.function(runners, *map(read, step.inputs), **step.attributes)
        else:
            result = step.function(*map(read, step.inputs), **step.attributes)
        if len(step.outputs) == 1:
            environment[step.outputs[0]] = result
        else:
            environment.update(zip(step.outputs, result, strict=False))
            environment[OMITTED] = None
        for name in dead:
            environment.pop(name, None)


def _bind_block(block: Block, environment: Environment) -> Callable[..., tuple[Any, ...]]:
    def run(*values: Any) -> tuple[Any, ...]:
        inner = {**environment, **dict(zip(block.inputs, values, strict=True))}
        run_steps(block.steps, inner, [()] * len(block.steps))
        return tuple(inner[name] for name in block.outputs)

    return run
