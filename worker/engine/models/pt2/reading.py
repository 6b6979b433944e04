"""Read JSON that nobody vouches for: within limits, each value of the type that it must have, every fault with its place."""

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

from schemas.errors import Fault, ModelRefused, ModelUnreadable

MAX_JSON_BYTES = 64 * 2**20
"""A graph of 10,000 nodes takes about 15 MiB; Python's objects take ten times as much."""

Object = dict[str, Any]


def parse_json(content: bytes, where: str) -> Any:
    """Return what a JSON text holds.

    Raises:
        ModelRefused: if it is too long, nested too deeply, names a key twice or holds a number of thousands of digits.
        ModelUnreadable: if it is no JSON.
    """
    if len(content) > MAX_JSON_BYTES:
        raise ModelRefused(
            Fault("the graph is too long", where, f"at most {MAX_JSON_BYTES} bytes of JSON", f"{len(content)} bytes")
        )
    try:
        return json.loads(content, object_pairs_hook=_build_object, parse_constant=_refuse_constant)
    except (RecursionError, MemoryError) as error:
        raise ModelRefused(
            Fault("the JSON is nested too deeply, or too large", where, "what torch.export.save writes")
        ) from error
    except (ValueError, UnicodeDecodeError) as error:
        raise ModelUnreadable(Fault("the JSON is damaged", where, got=str(error), advice="upload the file again")) from error


def _build_object(pairs: list[tuple[str, Any]]) -> Object:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = sorted(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError("a key stands twice: " + ", ".join(map(repr, twice[:3])))
    return found


def _refuse_constant(text: str) -> Any:
    raise ValueError(text + " is no JSON")


def malformed(where: str, expected: str, got: Any) -> ModelUnreadable:
    """Return the error of a file that is not built as torch.export builds it."""
    return ModelUnreadable(
        Fault(
            "the archive is not built as torch.export.save builds it",
            where=where,
            expected=expected,
            got=f"{type(got).__name__} {str(got)[:80]!r}",
            advice="export and save the model again",
        )
    )


def read_object(value: Any, where: str) -> Object:
    """Return a JSON object."""
    if not isinstance(value, dict):
        raise malformed(where, "an object", value)
    return value


def read_list(value: Any, where: str) -> list[Any]:
    """Return a JSON list."""
    if not isinstance(value, list):
        raise malformed(where, "a list", value)
    return value


def read_text(value: Any, where: str) -> str:
    """Return a string without control characters."""
    if not isinstance(value, str) or not value.isprintable():
        raise malformed(where, "a printable string", value)
    return value


def read_integer(value: Any, where: str) -> int:
    """Return an integer of 64 bits."""
    if not isinstance(value, int) or isinstance(value, bool) or not -(2**63) <= value < 2**63:
        raise malformed(where, "an integer of 64 bits", value)
    return value


def read_flag(value: Any, where: str) -> bool:
    """Return a Boolean."""
    if not isinstance(value, bool):
        raise malformed(where, "true or false", value)
    return value


def read_float(value: Any, where: str) -> float:
    """Return a float; infinities and NaN are written as strings."""
    if value in {"Infinity", "-Infinity", "NaN"}:
        return float(value)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise malformed(where, "a number", value)
    return float(value)


def read_field(given: Object, name: str, where: str) -> Any:
    """Return a field that must be there."""
    if name not in given:
        raise malformed(where, f"a field {name!r}", sorted(given)[:8])
    return given[name]


def read_union(value: Any, known: Iterable[str], where: str) -> tuple[str, Any]:
    """Return the one field of a tagged union."""
    given = read_object(value, where)
    if len(given) != 1 or not set(given) <= set(known):
        raise malformed(where, f"one of {', '.join(sorted(known))}", sorted(given)[:8])
    return next(iter(given.items()))
