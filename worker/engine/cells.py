"""Cells: which corruption sets are searched in which scope."""

from collections.abc import Sequence
from dataclasses import replace

from worker.engine.corruption import CorruptionSet
from worker.engine.scopes import Scope
from worker.engine.search import Cell


def plan_cells(scope: Scope, weights: int, sets: Sequence[CorruptionSet]) -> list[Cell]:
    """Return the scope's cells in the order of `sets`; sets that come to the same corruptions are one cell.

    An n above the scope's k means k, and for p = 1 every n means 1.

    >>> scope = Scope("model", "model", ("w",))
    >>> [cell.asked for cell in plan_cells(scope, 3, [CorruptionSet(2.0, 0.1, None), CorruptionSet(2.0, 0.1, 5)])]
    [(None, 5)]
    """
    cells: dict[CorruptionSet, Cell] = {}
    for entry in sets:
        count = entry.max_corrupted or weights if entry.scale == "tensor" else entry.count_corrupted(weights)
        key = replace(entry, max_corrupted=min(count, weights))
        asked = (*cells[key].asked, entry.max_corrupted) if key in cells else (entry.max_corrupted,)
        cells[key] = Cell(scope, cells[key].corruption_set if key in cells else entry, asked)
    return list(cells.values())
