"""Where the outputs stand in what forward returned: PyTorch's description of nested tuples, lists and dictionaries."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from schemas.errors import Fault, ModelRefused
from worker.engine.models.aten.results import Path
from worker.engine.models.pt2.reading import malformed, parse_json, read_field, read_integer, read_list, read_object

VERSION = 1
MAX_DEPTH = 50
WHERE = "module_call_graph[0].signature.out_spec"


def find_paths(text: str | None, count: int, namedtuples: Mapping[str, tuple[str, ...]]) -> list[Path]:
    r"""Return the place of every output.

    Args:
        text: the description, as JSON in a string; None for a tuple.
        count: how many outputs the graph has.
        namedtuples: the field names by class name; classes themselves are never looked up.

    Raises:
        ModelRefused: if the description is of another version or nested too deeply.
        ModelUnreadable: if it does not describe `count` outputs.

    >>> leaf = '{"type": null, "context": null, "children_spec": []}'
    >>> spec = '[1, {"type": "builtins.dict", "context": "[\\"a\\", \\"b\\"]", "children_spec": [%s, %s]}]' % (leaf, leaf)
    >>> find_paths(spec, 2, {})
    [('a',), ('b',)]
    """
    if text is None:
        return [()] if count == 1 else [(place,) for place in range(count)]
    given = read_list(parse_json(text.encode(), WHERE), WHERE)
    if len(given) != 2 or read_integer(given[0], WHERE) != VERSION:
        got = str(given[:1])
        raise ModelRefused(Fault("the outputs are described in an unknown version", WHERE, str(VERSION), got, "export again"))
    paths = list(_walk(given[1], namedtuples, ()))
    return _check_count(paths, count)


def _check_count(paths: list[Path], count: int) -> list[Path]:
    if len(paths) != count:
        raise malformed(WHERE, f"a description of {count} outputs", len(paths))
    return paths


def _walk(value: Any, namedtuples: Mapping[str, tuple[str, ...]], path: Path) -> Iterator[Path]:
    if len(path) > MAX_DEPTH:
        raise ModelRefused(Fault("the outputs are nested too deeply", WHERE, f"at most {MAX_DEPTH} levels"))
    node = read_object(value, WHERE)
    kind = read_field(node, "type", WHERE)
    children = read_list(read_field(node, "children_spec", WHERE), WHERE)
    if kind is None:
        yield path
        return
    keys = _find_keys(kind, node.get("context"), len(children), namedtuples)
    for key, child in zip(keys, children, strict=True):
        yield from _walk(child, namedtuples, (*path, key))


def _find_keys(kind: Any, context: Any, count: int, namedtuples: Mapping[str, tuple[str, ...]]) -> Sequence[str | int]:
    """Return what names the children: fields, keys, or else their places. What a class is called decides nothing else."""
    if kind == "collections.namedtuple":
        fields = namedtuples.get(context, ()) if isinstance(context, str) else ()
        return fields if len(fields) == count else range(count)
    found = parse_json(context.encode(), WHERE) if isinstance(context, str) else context
    if isinstance(found, list) and len(found) == 2 and isinstance(found[1], list):
        found = found[1]  # a defaultdict: the name of its factory, which is never looked up, and the keys
    named = isinstance(found, list) and len(found) == count and kind not in {"builtins.tuple", "builtins.list"}
    return [str(key) for key in found] if named else range(count)
