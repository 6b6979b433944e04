"""Ranking: scopes by how much a corruption of them does."""

from typing import Any, Literal

from schemas.base import Output


class RankingEntry(Output):
    """A scope's place in a ranking."""

    scope: str
    finding: str
    loss_change: float | None


class Ranking(Output):
    """Scopes of one kind under one set, most vulnerable first; non-finite damage ranks highest."""

    kind: Literal["per_module", "per_tensor", "per_component", "per_depth"]
    set: dict[str, Any]
    by: Literal["loss_change"]
    scopes: tuple[RankingEntry, ...]
