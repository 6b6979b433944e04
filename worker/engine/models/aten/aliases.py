"""Which values may share memory at a point of the program: what an in-place operator writes is seen under all these names."""

from collections.abc import Iterable

from worker.engine.models.aten.builtins import IN_PLACE_BUILTINS
from worker.engine.models.aten.draft import Draft, walk_drafts


class AliasGroups:
    """Disjoint sets of names."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def join(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Put the two names of every pair into one set."""
        for first, second in pairs:
            self._parent[self._find(first)] = self._find(second)

    def find_members(self, name: str) -> set[str]:
        """Return every name in one set with `name`, itself included."""
        root = self._find(name)
        return {other for other in list(self._parent) if self._find(other) == root}

    def _find(self, name: str) -> str:
        root = self._parent.setdefault(name, name)
        while root != self._parent[root]:
            root = self._parent[root]
        self._parent[name] = root
        return root


class Aliases:
    """What is known to be shared when the drafts before the present one have run; grows as a walk goes on.

    Tensor memory, which containers share too, and the containers themselves are kept apart: putting a tensor into a
    list changes the list and not the tensor. Inside a loop the whole body may have run before, so questions about what
    lasts from one round to the next take the edges of all of it.
    """

    def __init__(self, containers: frozenset[str]) -> None:
        self._containers = containers
        self._memory, self._lists = AliasGroups(), AliasGroups()
        self._memory_in_loops, self._lists_in_loops = AliasGroups(), AliasGroups()

    def learn(self, draft: Draft) -> None:
        """Add what one draft lets its inputs and outputs share."""
        lists = self._keep_containers(draft)
        self._memory.join(draft.aliases)
        self._lists.join(lists)
        self._memory_in_loops.join(draft.aliases)
        self._lists_in_loops.join(lists)

    def enter_loop(self, loop: Draft) -> None:
        """Add what the body of a loop shares, for questions about later rounds."""
        for draft in walk_drafts([loop]):
            self._memory_in_loops.join(draft.aliases)
            self._lists_in_loops.join(self._keep_containers(draft))

    def find_sharers(self, draft: Draft) -> set[str]:
        """Return the names that hold what an in-place draft is about to write, the written one included."""
        groups = self._lists if draft.operator in IN_PLACE_BUILTINS else self._memory
        return groups.find_members(draft.writes) if draft.writes else set()

    def find_lasting_sharers(self, draft: Draft) -> set[str]:
        """Return the same, taking earlier rounds of the loops around it into account."""
        groups = self._lists_in_loops if draft.operator in IN_PLACE_BUILTINS else self._memory_in_loops
        return groups.find_members(draft.writes) if draft.writes else set()

    def _keep_containers(self, draft: Draft) -> list[tuple[str, str]]:
        return [pair for pair in draft.aliases if self._containers.issuperset(pair)]
