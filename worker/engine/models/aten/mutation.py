"""Rewrite in-place operators into ones that return their result, where nothing else can see the difference."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from schemas.errors import Fault
from worker.engine.models.aten.aliases import Aliases
from worker.engine.models.aten.allowlist import strip_in_place
from worker.engine.models.aten.draft import Draft, DraftBlock, find_reads, walk_drafts


@dataclass(frozen=True)
class Functional:
    """Calls the out-of-place form and keeps the dtype of the value that was written into."""

    function: Callable[..., Any]

    def __call__(self, target: Any, /, *values: Any, **attributes: Any) -> Any:
        """Return what the target would hold."""
        result = self.function(target, *values, **attributes)
        if isinstance(result, Tensor) and result.dtype != target.dtype:
            return result.to(target.dtype)
        return result


def remove_mutation(
    drafts: list[Draft], outputs: list[str], inputs: set[str], state: frozenset[str], containers: frozenset[str]
) -> list[str]:
    """Rewrite every in-place draft that can be; those that cannot keep `writes`.

    `y = op_(x)` becomes `y = op(x)` with later uses of x renamed to y, if x was made in the same block and nothing that
    holds its memory by then is read later. A list that a loop's body appends to is handed from round to round instead.

    Args:
        drafts: the program, changed in place.
        outputs: the names that the program returns.
        inputs: the names of the program's inputs.
        state: the names of weights and stored constants.
        containers: the names of lists, tuples and dictionaries.

    Returns:
        The names of the drafts that write into the state, so that one call changes the next.
    """
    rewriter = _Rewriter(Aliases(containers), state)
    rewriter.rewrite(DraftBlock(sorted(inputs), drafts, outputs), outer=set())
    return rewriter.stateful


def describe_state_change(stateful: list[str]) -> Fault:
    """Return the fault of a model that is not a function of its inputs."""
    return Fault(
        "the model writes into its own weights or buffers, so one call changes the next",
        where=", ".join(stateful[:5]),
        expected="a forward that leaves the stored tensors as they are",
        got=f"{len(stateful)} in-place operators on stored tensors",
        advice="call .eval() before tracing, or pass caches as inputs and outputs",
    )


class _Rewriter:
    def __init__(self, aliases: Aliases, state: frozenset[str]) -> None:
        self.stateful: list[str] = []
        self._aliases = aliases
        self._state = state

    def rewrite(self, block: DraftBlock, outer: set[str]) -> None:
        """Go over a block in the order of execution; `outer` holds the names that existed before it began."""
        before: set[str] = set()
        for position, draft in enumerate(block.drafts):
            if draft.operator == "prim::Loop":
                self._aliases.enter_loop(draft)
                self._carry_writes(block, position, before)
            for inner in draft.blocks:
                self.rewrite(inner, outer | before | set(block.inputs) | set(inner.inputs))
            if draft.writes:
                self._rewrite_draft(block, position, before, outer)
            self._aliases.learn(draft)
            before.update(draft.outputs)

    def _rewrite_draft(self, block: DraftBlock, position: int, before: set[str], outer: set[str]) -> None:
        draft = block.drafts[position]
        if self._aliases.find_lasting_sharers(draft) & self._state:
            self.stateful.append(draft.name)
            return
        if draft.functional is None or draft.writes not in before or draft.inputs.index(draft.writes) != 0:
            return
        sharers = self._aliases.find_sharers(draft)
        reads = set(block.outputs).union(*map(find_reads, block.drafts[position + 1 :]))
        others = sharers & (before | set(block.inputs)) - {draft.writes}
        if draft.writes not in draft.inputs[1:] and not (others & reads) and not (sharers & outer):
            make_functional(block, position)

    def _carry_writes(self, block: DraftBlock, position: int, before: set[str]) -> None:
        """Let a loop hand on a value that its body writes into (`list.append` in a comprehension) instead of sharing it."""
        loop = block.drafts[position]
        (body,) = loop.blocks
        deeper = {inner.writes for draft in body.drafts for nested in draft.blocks for inner in walk_drafts(nested.drafts)}
        for name in sorted({draft.writes for draft in body.drafts if draft.writes and draft.functional} & before - deeper):
            writers = [draft for draft in body.drafts if draft.writes == name]
            results = {output for draft in writers for output in draft.outputs}
            if self._aliases.find_lasting_sharers(writers[0]) - {name} - results:
                continue
            current = f"{name} in {loop.name}"
            rename_after(body, -1, {name: current})
            body.inputs.append(current)
            for place, draft in enumerate(body.drafts):
                if draft.writes == current:
                    current = draft.outputs[0]
                    make_functional(body, place)
            body.outputs.append(current)
            loop.inputs.append(name)
            loop.outputs.append(f"{name} after {loop.name}")
            rename_after(block, position, {name: loop.outputs[-1]})


def make_functional(block: DraftBlock, position: int) -> None:
    """Replace an in-place draft by its out-of-place form; what follows in the block reads the result."""
    draft = block.drafts[position]
    if draft.writes is None or draft.functional is None:
        return
    rename_after(block, position, {draft.writes: draft.outputs[0]})
    draft.operator = f"aten::{strip_in_place(draft.operator.removeprefix('aten::'))}"
    draft.function = Functional(draft.functional)
    draft.writes = None


def rename_after(block: DraftBlock, position: int, names: dict[str, str]) -> None:
    """Rename what the drafts after `position` and the block's outputs read."""
    for draft in block.drafts[position + 1 :]:
        _rename(draft, names)
    block.outputs[:] = [names.get(name, name) for name in block.outputs]


def _rename(draft: Draft, names: dict[str, str]) -> None:
    draft.inputs[:] = [names.get(name, name) for name in draft.inputs]
    draft.aliases = [(names.get(first, first), names.get(second, second)) for first, second in draft.aliases]
    if draft.writes is not None:
        draft.writes = names.get(draft.writes, draft.writes)
    for block in draft.blocks:
        for inner in block.drafts:
            _rename(inner, names)
        block.outputs[:] = [names.get(name, name) for name in block.outputs]
