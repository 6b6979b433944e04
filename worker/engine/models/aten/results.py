"""Outputs under the names that a user of the file sees, whatever tuples and dictionaries forward returns them in."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from worker.engine.models.aten.draft import Draft

Path = tuple[str | int, ...]


def name_output(path: Path) -> str:
    """Return the name of one output tensor from its place in what forward returns.

    >>> name_output(()), name_output((1,)), name_output((0, 2)), name_output(("logits",)), name_output((1, "mask"))
    ('output', 'output_1', 'output_0_2', 'logits', 'output_1_mask')
    """
    parts = [str(part) for part in path]
    return "_".join(parts if path and isinstance(path[0], str) else ["output", *parts])


def flatten_result(result: Any, path: Path = ()) -> Iterator[tuple[str, Tensor]]:
    """Yield the name and value of every tensor in what forward returned: tuples, named tuples, lists and dictionaries."""
    if isinstance(result, Tensor):
        yield name_output(path), result
    elif isinstance(result, dict):
        for key, value in result.items():
            yield from flatten_result(value, (*path, str(key)))
    elif isinstance(result, tuple | list):
        keys = getattr(result, "_fields", range(len(result)))
        for key, value in zip(keys, result, strict=True):
            yield from flatten_result(value, (*path, key))


def draft_output(source: str, name: str) -> Draft:
    """Return the step that gives a value its name as an output."""
    return Draft(name, "prim::output", _return, [source], [name], aliases=[(source, name)])


def _return(value: Any) -> Any:
    return value
