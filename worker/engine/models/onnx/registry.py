"""The form of the operator table: a family is a file, an operator is one decorated function.

    operator = Family("activation")

    @operator("LeakyRelu")
    def leaky_relu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
        "Slope `alpha` below zero."
        return functional.leaky_relu(x, alpha)

Positional parameters are the operator's inputs (None when omitted), keyword-only ones its attributes.
What the loader must know beyond the function (which slots hold settings, whose values decide a shape)
stands in the same decorator, so that the table is written once.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, TypedDict, Unpack

from torch import Tensor

from worker.engine.models.program import Likeness

BLOCKED = "com.microsoft.nchwc"
"""The domain whose values lie in blocks of channels in the file, and plainly here."""
OLDEST_OPSET = 6
"""Of opset 6, what does not broadcast by an attribute; older files have `consumed_inputs`, which nothing writes today."""
NEWEST_OPSET = 28
"""The newest default opset that the table was compared with; a later one may redefine an operator."""


class UncoveredError(Exception):
    """A form of an operator that the table does not cover; the loader collects these."""


@dataclass(frozen=True)
class Node:
    """One node as `prepare` sees it: attributes as Python values, names of inputs and outputs ("" when omitted)."""

    attributes: Mapping[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    opset: int

    def has_input(self, slot: int) -> bool:
        """Whether the optional input is given."""
        return slot < len(self.inputs) and self.inputs[slot] != ""

    def has_output(self, slot: int) -> bool:
        """Whether somebody may read the optional output."""
        return slot < len(self.outputs) and self.outputs[slot] != ""


Prepare = Callable[[Node], dict[str, Any]]
Learn = Callable[[Node], dict[str, Tensor]]


class Codes(NamedTuple):
    """A slot that reads the integers of a grid: a stored tensor there is a weight.

    scales: the slots whose product is the step; without any, later steps multiply by it. zero_point: its slot, None for zero.
    axis: what a list of scales runs along, or each axis of them; a name is that of the step's attribute that says it.
    """

    slot: int
    scales: tuple[int, ...] = ()
    zero_point: int | None = None
    axis: int | str | tuple[int, ...] = -1


class Facts(TypedDict, total=False):
    """What may be said of an operator beside its function; see `Operator`."""

    domain: str
    since: int
    until: int | None
    prepare: Prepare
    learn: Learn
    settings: tuple[int, ...]
    statistics: tuple[int, ...]
    parameters: tuple[int, ...]
    sizes: tuple[int, ...]
    lists: tuple[int, ...]
    blocks: tuple[str, ...]
    optional_blocks: bool
    alias: bool
    relays: bool
    many: bool
    shape_only: bool
    dynamic_shape: bool
    codes: tuple[Codes, ...]
    rounds: bool
    widens: bool
    like: Likeness


@dataclass(frozen=True)
class Operator:
    """One row of the table.

    since, until: the opsets of its domain with these semantics; `until` is the first one without.
    prepare: turns the node's attributes into the function's keyword arguments at load time.
    learn: finds the node's attributes that are stored tensors; the function gets them after the node's inputs.
    settings: slots whose floats are no weights (bounds, scales, epsilon); statistics: running statistics.
    parameters: slots where even a one-element float is a weight (a bias, a slope).
    sizes: slots whose values decide the output's shape.
    lists: slots whose stored floats the function reads as Python numbers, so that no device is asked for them.
    blocks: graph attributes, in the order in which the function gets their runners; optional_blocks: one that is not
        given hands its input on.
    alias: the output is the first input itself; relays: it is the first input's values in another arrangement.
    many: the function always returns a tuple, also when the node names one output.
    codes: slots that read integers of a grid. rounds: it reads or writes such integers, which are floats here so that a
    gradient passes; the runtime has integers there. widens: it makes wider floats of eight-bit ones. like: the operator on
    floats whose work one on integers does.
    """

    family: str
    name: str
    function: Callable[..., Any]
    domain: str = ""
    since: int = 1
    until: int | None = None
    prepare: Prepare | None = None
    learn: Learn | None = None
    settings: tuple[int, ...] = ()
    statistics: tuple[int, ...] = ()
    parameters: tuple[int, ...] = ()
    sizes: tuple[int, ...] = ()
    lists: tuple[int, ...] = ()
    blocks: tuple[str, ...] = ()
    optional_blocks: bool = False
    alias: bool = False
    relays: bool = False
    many: bool = False
    shape_only: bool = False
    dynamic_shape: bool = False
    codes: tuple[Codes, ...] = ()
    rounds: bool = False
    widens: bool = False
    like: Likeness | None = None

    @property
    def is_node(self) -> bool:
        """Whether a step of this operator computes what the file's node does, from the same inputs, in tensors."""
        return not (self.rounds or self.learn is not None or (self.alias and self.domain) or self.domain == BLOCKED)

    @property
    def title(self) -> str:
        """The operator's name, with its domain when that is not ONNX's own."""
        return f"{self.domain}.{self.name}" if self.domain else self.name

    def read_arguments(self, node: Node) -> dict[str, Any]:
        """Return the function's keyword arguments for a node.

        Args:
            node: a node of this operator.

        Returns:
            What `prepare` says, else the node's own attributes.

        Raises:
            UncoveredError: the node uses inputs or attributes that the table does not cover.
        """
        if self.prepare is not None:
            return self.prepare(node)
        unknown = sorted(node.attributes.keys() - self.attribute_names)
        if unknown:
            message = f"has an attribute that is not supported: {', '.join(unknown)}"
            raise UncoveredError(message)
        return dict(node.attributes)

    def choose_function(self, outputs: int) -> Callable[..., Any]:
        """Return the function for a node with so many outputs: one output is a value, not a tuple of one."""
        if not self.many or outputs != 1:
            return self.function
        function = self.function

        def take_first(*inputs: Any, **attributes: Any) -> Any:
            return function(*inputs, **attributes)[0]

        return take_first

    @cached_property
    def attribute_names(self) -> frozenset[str]:
        """The keyword-only parameters of the function: the attributes it takes when there is no `prepare`."""
        try:
            parameters = inspect.signature(self.function).parameters.values()
        except ValueError:  # torch's builtins have no signature and take no ONNX attribute
            return frozenset()
        return frozenset(entry.name for entry in parameters if entry.kind is inspect.Parameter.KEYWORD_ONLY)


@dataclass
class Family:
    """A group of operators of one domain, unless one says another; calling it gives the decorator that adds one."""

    name: str
    domain: str = ""
    rounds: bool = False
    operators: list[Operator] = field(default_factory=list)

    def __call__(self, *names: str, **facts: Unpack[Facts]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Return a decorator that enters its function under each of `names`."""
        facts.setdefault("domain", self.domain)
        facts.setdefault("rounds", self.rounds)

        def enter(function: Callable[..., Any]) -> Callable[..., Any]:
            self.operators += [Operator(self.name, name, function, **facts) for name in names]
            return function

        return enter


class Table:
    """Every operator of some families, looked up by domain, name and opset."""

    def __init__(self, families: tuple[Family, ...]) -> None:
        self.operators = tuple(entry for family in families for entry in family.operators)
        self._entries: dict[tuple[str, str], list[Operator]] = {}
        for entry in sorted(self.operators, key=lambda entry: -entry.since):
            self._entries.setdefault((entry.domain, entry.name), []).append(entry)

    def find(self, domain: str, name: str, opset: int) -> Operator | None:
        """Return the row with the highest `since` that is not above `opset` and not yet gone at it."""
        for entry in self._entries.get((domain, name), ()):
            if entry.since <= opset:
                return entry if entry.until is None or opset < entry.until else None
        return None

    def knows(self, domain: str, name: str) -> bool:
        """Whether the operator is there at some opset."""
        return (domain, name) in self._entries
