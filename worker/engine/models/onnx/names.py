"""Names in nested graphs: each local name gets one name that is unique in the whole program."""

from dataclasses import dataclass, field

from worker.engine.models.program import OMITTED


@dataclass
class Names:
    """The names one graph defines; what it does not define is looked up in the graph around it.

    `taken` is shared by all graphs of a program: every name in use, with how many variants of it were made. The main
    graph's names are in it from the start and stay as they are.
    """

    taken: dict[str, int]
    outer: "Names | None" = None
    main: bool = False
    known: dict[str, str] = field(default_factory=dict)

    def define(self, name: str) -> str | None:
        """Return the program-wide name for a new local name, or None when this graph has defined it before."""
        if name == OMITTED:
            return OMITTED
        if name in self.known:
            return None
        unique = name
        while not self.main and unique in self.taken:
            self.taken[name] += 1
            unique = f"{name}#{self.taken[name]}"
        self.taken[unique] = 1
        self.known[name] = unique
        return unique

    def find(self, name: str) -> str | None:
        """Return the program-wide name, or None where nothing of that name is in sight."""
        scope: Names | None = self
        while scope is not None:
            if name in scope.known:
                return scope.known[name]
            scope = scope.outer
        return OMITTED if name == OMITTED else None
