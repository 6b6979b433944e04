"""Turns pydantic's errors into faults that a user can act on: one per location, unions told as one expectation.

The API and the client both read documents through `check_document`, so a policy is refused in the same
words by the command line and by the server.
"""

import difflib
import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from schemas.errors import Fault, InvalidRequest

MAX_FAULTS = 100
MAX_SHOWN = 80
GENERAL_ADVICE = "Correct the value; docs/contract.md describes every field."
_PATTERNS = {
    r"^[0-9a-f]{64}$": "a sha-256 of 64 lower-case hexadecimal digits",
    r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$": "1 to 128 letters, digits, dots, dashes or underscores, a letter or digit first",
}

Path = tuple[str | int, ...]
Context = Mapping[str, Any]
ModelT = TypeVar("ModelT", bound=BaseModel)


class _Issue(NamedTuple):
    """One pydantic error, with `path` in the document and `union` the path of the union it is an alternative of."""

    path: Path
    union: Path | None
    kind: str
    expected: str
    what: str
    value: object


def check_document(model: type[ModelT], document: object) -> ModelT:
    """Return `document` as `model`.

    Raises:
        InvalidRequest: with every fault that was found, each with its JSON pointer.

    """
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise InvalidRequest(*explain(error, document, model)) from error


def explain(error: ValidationError, document: object, model: type[BaseModel] | None = None) -> tuple[Fault, ...]:
    """Return what is wrong with `document`, one fault per location; with `model`, unknown fields come with suggestions."""
    schema = _load_schema(model) if model is not None else {}
    issues = [_read_issue(entry, document, schema) for entry in error.errors(include_url=False)]
    faults: dict[Path, Fault] = {}
    for issue in _merge_unions([issue for issue in issues if not _is_consequence(issue)]):
        faults.setdefault(issue.path, _build_fault(issue, schema))
    found = tuple(faults.values())
    if len(found) <= MAX_FAULTS:
        return found
    rest = Fault(what=f"{len(found) - MAX_FAULTS} more faults are not listed", advice="Correct these first.")
    return (*found[:MAX_FAULTS], rest)


def format_pointer(path: Path) -> str:
    """Return the JSON pointer (RFC 6901) of `path`.

    >>> format_pointer(("labels", "a/b", 0))
    '/labels/a~1b/0'
    """
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def format_spot(path: Path) -> str:
    """Return `path` as a person writes it.

    >>> format_spot(("sets", 0, "epsilon", 1))
    'sets[0].epsilon[1]'
    """
    shown = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return shown.removeprefix(".") or "the document"


def _read_issue(entry: Any, document: object, schema: dict[str, Any]) -> _Issue:
    path, union = _locate(entry["loc"], document, missing=entry["type"] == "missing")
    context = entry.get("ctx", {})
    expected = describe_expected(entry["type"], entry["msg"], context, schema)
    what = entry["msg"].removeprefix("Value error, ") if entry["type"] == "value_error" else ""
    return _Issue(path, union, entry["type"], expected, what, entry["input"])


def _locate(loc: Path, document: object, *, missing: bool) -> tuple[Path, Path | None]:
    """Return where `loc` points in the document; parts that are not in it name a union's alternative."""
    path: Path = ()
    union: Path | None = None
    node: Any = document
    for position, part in enumerate(loc):
        is_last = position == len(loc) - 1
        if _holds(node, part):
            path, node = (*path, part), node[part]
        elif is_last and missing:
            path = (*path, part)
        elif part != "[key]" and not str(part).startswith("#"):  # a tag: the document says which alternative it means
            union = path if union is None else union
    return path, union


def _holds(node: Any, part: str | int) -> bool:
    if isinstance(node, Mapping):
        return part in node
    return isinstance(node, list | tuple) and isinstance(part, int) and part < len(node)


def _is_consequence(issue: _Issue) -> bool:
    """Tell whether the error only repeats that entries of the list are bad: the list itself is long enough."""
    return issue.kind == "too_short" and isinstance(issue.value, list | tuple | dict) and len(issue.value) > 0


def _merge_unions(issues: list[_Issue]) -> list[_Issue]:
    """Return the issues with the alternatives of each union told as one."""
    merged: list[_Issue] = []
    seen: set[Path] = set()
    for issue in issues:
        if issue.union is None:
            merged.append(issue)
        elif issue.union not in seen:
            seen.add(issue.union)
            merged += _merge_alternatives([other for other in issues if other.union == issue.union])
    return merged


def _merge_alternatives(issues: list[_Issue]) -> list[_Issue]:
    inside = [issue for issue in issues if issue.path != issue.union or issue.kind == "value_error"]
    if inside:
        return inside
    expected = " or ".join(dict.fromkeys(issue.expected for issue in issues))
    return [issues[0]._replace(expected=expected)]


def _build_fault(issue: _Issue, schema: dict[str, Any]) -> Fault:
    spot, where, got = format_spot(issue.path), format_pointer(issue.path), _show(issue.value)
    if issue.kind == "missing":
        return Fault(f"{spot} is missing", where, issue.expected, "nothing", f"Add {issue.path[-1]}.")
    if issue.kind == "extra_forbidden":
        known = _find_fields(schema, issue.path[:-1])
        expected = f"one of {', '.join(known)}" if known else issue.expected
        return Fault(f"{spot} is not a field that exists", where, expected, got, _suggest(str(issue.path[-1]), known))
    if issue.what:
        what = issue.what if len(issue.path) == 0 else f"{spot}: {issue.what}"
        return Fault(what, where, issue.expected, got, GENERAL_ADVICE)
    advice = (
        f"Write it as a list: [{got}]." if issue.expected == "a list" and not isinstance(issue.value, dict) else GENERAL_ADVICE
    )
    return Fault(f"{spot} must be {issue.expected}", where, issue.expected, got, advice)


def _suggest(name: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(name[:MAX_SHOWN], known, n=1)
    return f"Did you mean {close[0]}?" if close else "Remove it, or look up its name in docs/contract.md."


def _show(value: object) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"


_EXPECTED: dict[str, Callable[[Context], str]] = {
    "missing": lambda _: "a value",
    "extra_forbidden": lambda _: "no such field",
    "literal_error": lambda c: str(c["expected"]),
    "greater_than": lambda c: f"a number greater than {c['gt']:g}",
    "greater_than_equal": lambda c: f"a number of at least {c['ge']:g}",
    "less_than": lambda c: f"a number less than {c['lt']:g}",
    "less_than_equal": lambda c: f"a number of at most {c['le']:g}",
    "finite_number": lambda _: "a finite number",
    "float_type": lambda _: "a number",
    "float_parsing": lambda _: "a number",
    "int_type": lambda _: "a whole number",
    "int_parsing": lambda _: "a whole number",
    "int_from_float": lambda _: "a whole number",
    "bool_type": lambda _: "true or false",
    "bool_parsing": lambda _: "true or false",
    "string_type": lambda _: "text",
    "string_too_short": lambda c: f"text of at least {c['min_length']} character(s)",
    "string_too_long": lambda c: f"text of at most {c['max_length']} characters",
    "string_pattern_mismatch": lambda c: _PATTERNS.get(c["pattern"], f"text that matches {c['pattern']}"),
    "tuple_type": lambda _: "a list",
    "list_type": lambda _: "a list",
    "dict_type": lambda _: "an object",
    "too_short": lambda c: f"a list of {c['min_length']} or more entries",
    "too_long": lambda c: f"a list of {c['max_length']} or fewer entries",
    "value_error": lambda _: "values that fit together",
    "date_from_datetime_parsing": lambda _: "a date such as 2027-01-31",
    "date_type": lambda _: "a date such as 2027-01-31",
}


def describe_expected(kind: str, message: str, context: Context, schema: dict[str, Any]) -> str:
    """Return in words what pydantic's error `kind` asks for."""
    if kind in {"model_type", "model_attributes_type"}:
        fields = tuple(schema.get("$defs", {}).get(context.get("class_name"), schema).get("properties", ()))
        return f"an object with the fields {', '.join(fields)}" if fields else "an object"
    if kind in _EXPECTED:
        return _EXPECTED[kind](context)
    return message.removeprefix("Input should be ")


@lru_cache(maxsize=16)
def _load_schema(model: type[BaseModel]) -> dict[str, Any]:
    return model.model_json_schema()


def _find_fields(schema: dict[str, Any], path: Path) -> tuple[str, ...]:
    """Return the field names that the JSON Schema allows for the object at `path`."""
    nodes = _resolve(schema, schema)
    for part in path:
        nodes = [deeper for node in nodes for deeper in _step_into(schema, node, part)]
    return tuple(dict.fromkeys(name for node in nodes for name in node.get("properties", ())))


def _step_into(schema: dict[str, Any], node: dict[str, Any], part: str | int) -> list[dict[str, Any]]:
    if isinstance(part, int):
        return _resolve(schema, node.get("items", {}))
    return _resolve(schema, node.get("properties", {}).get(part, {}))


def _resolve(schema: dict[str, Any], node: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the node without references; a union becomes its alternatives."""
    if "$ref" in node:
        return _resolve(schema, schema["$defs"][node["$ref"].rpartition("/")[2]])
    if "anyOf" in node:
        return [found for alternative in node["anyOf"] for found in _resolve(schema, alternative)]
    return [node]
