"""Drafts: steps while they are still being rewritten, and the passes that finish them."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from worker.engine.models.program import Block, Step


@dataclass
class Draft:
    """A step under construction; the fields that Step has mean the same here."""

    name: str
    operator: str
    function: Callable[..., Any]
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any] = field(default_factory=dict)
    blocks: list["DraftBlock"] = field(default_factory=list)
    shape_only: bool = False
    dynamic_shape: bool = False
    from_values: bool = False
    """Turns a tensor's values into Python values."""
    kept: bool = False
    """Has an effect beside its outputs (raises), so it stays although nobody reads them."""
    writes: str | None = None
    """The value that is changed in place."""
    functional: Callable[..., Any] | None = None
    """What returns the same result without writing."""
    aliases: list[tuple[str, str]] = field(default_factory=list)
    """Pairs of values that may share memory because of this step."""


@dataclass
class DraftBlock:
    """A block under construction."""

    inputs: list[str]
    drafts: list[Draft]
    outputs: list[str]


def walk_drafts(drafts: Iterable[Draft]) -> Iterator[Draft]:
    """Yield every draft, those inside blocks included."""
    for draft in drafts:
        yield draft
        for block in draft.blocks:
            yield from walk_drafts(block.drafts)


def find_reads(draft: Draft) -> set[str]:
    """Return every name that the draft and the blocks inside it read."""
    reads = set(draft.inputs)
    for block in draft.blocks:
        reads.update(block.outputs)
        for inner in block.drafts:
            reads |= find_reads(inner)
    return reads


def drop_dead(drafts: list[Draft], wanted: set[str]) -> list[Draft]:
    """Return the drafts without those that have no effect and whose outputs nobody reads; blocks are pruned in place."""
    alive: list[Draft] = []
    for draft in reversed(drafts):
        for block in draft.blocks:
            block.drafts = drop_dead(block.drafts, wanted | set(block.outputs))
        if _has_effect(draft) or wanted.intersection(draft.outputs):
            alive.append(draft)
            wanted = wanted | find_reads(draft)
    return alive[::-1]


def _has_effect(draft: Draft) -> bool:
    return draft.kept or draft.writes is not None or any(_has_effect(inner) for block in draft.blocks for inner in block.drafts)


def finish(drafts: Iterable[Draft]) -> tuple[Step, ...]:
    """Return the drafts as steps."""
    return tuple(
        Step(
            name=draft.name,
            operator=draft.operator,
            function=draft.function,
            inputs=tuple(draft.inputs),
            outputs=tuple(draft.outputs),
            attributes=draft.attributes,
            blocks=tuple(Block(tuple(block.inputs), finish(block.drafts), tuple(block.outputs)) for block in draft.blocks),
            shape_only=draft.shape_only,
            dynamic_shape=draft.dynamic_shape,
            mutates=draft.writes is not None
            or any(inner.writes for block in draft.blocks for inner in walk_drafts(block.drafts)),
        )
        for draft in drafts
    )
