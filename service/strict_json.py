"""Reads JSON as RFC 8259 has it: UTF-8, no NaN, no name twice, nesting bounded."""

import json
import math
import re
from collections.abc import Iterator
from itertools import accumulate, islice
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from schemas.errors import BadBody, Fault, InvalidRequest
from schemas.validation import Path, explain, format_pointer, format_spot

MAX_DEPTH = 64
MAX_LISTED = 20
# Possessive, and a text without an end is taken to the end of the body: one pass, whatever a client sends.
_STRINGS = re.compile(r'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_BRACKETS = re.compile(r"[^\[\]{}]+")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_EXPECTED = "one JSON document in UTF-8"

ModelT = TypeVar("ModelT", bound=BaseModel)


class _TwiceNamed(ValueError):
    """An object names a field twice."""


class _Reader:
    """Hooks for the parser; remembers whether a number was not finite."""

    def __init__(self) -> None:
        self.finite = True

    def read_constant(self, name: str) -> float:
        self.finite = False
        return float(name.replace("Infinity", "inf"))

    def read_float(self, text: str) -> float:
        value = float(text)
        self.finite = self.finite and math.isfinite(value)
        return value

    @staticmethod
    def read_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) != len(pairs):
            names = [name for name, _ in pairs]
            raise _TwiceNamed(next(name for name in names if names.count(name) > 1))
        return content


def parse_json(body: bytes) -> Any:
    """Return the document in `body`.

    Raises:
        BadBody: if it is not JSON, nests too deep, names a field twice or holds a number that is not finite.

    """
    if not body.strip():
        raise BadBody(Fault("the body is empty", "", _EXPECTED, "nothing", "Send the document as the request's body."))
    reader = _Reader()
    text = _decode(body)
    try:
        _check_depth(text)
        content = json.loads(
            text, parse_constant=reader.read_constant, parse_float=reader.read_float, object_pairs_hook=reader.read_object
        )
        _check_text(text, content)
    except UnicodeEncodeError:
        advice = "Write characters beyond U+FFFF as a pair of escapes."
        raise BadBody(Fault("a text holds half of a surrogate pair", "", _EXPECTED, "a lone surrogate", advice)) from None
    except json.JSONDecodeError as error:
        raise BadBody(_explain_syntax(text, error)) from None
    except _TwiceNamed as error:
        what = f"an object names {json.dumps(error.args[0], ensure_ascii=False)} twice"
        raise BadBody(Fault(what, "", "each name once", "the same name twice", "Remove one of the two.")) from None
    except ValueError:  # an integer of more digits than Python converts
        raise BadBody(
            Fault("a whole number is too long", "", "a number of ordinary size", "thousands of digits", "Shorten it.")
        ) from None
    if not reader.finite:
        raise BadBody(*_explain_numbers(content))
    return content


def check_json(model: type[ModelT], body: bytes, content: object) -> ModelT:
    """Return `body`, parsed before as `content`, as `model`; types are taken as they stand: "1" is no number.

    Raises:
        InvalidRequest: with every fault that was found, each with its JSON pointer.

    """
    try:
        return model.model_validate_json(body, strict=True)
    except ValidationError as error:
        raise InvalidRequest(*explain(error, content, model)) from None


def _decode(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        got = f"byte 0x{body[error.start]:02x} at position {error.start}"
        raise BadBody(Fault("the body is not UTF-8", "", _EXPECTED, got, "Encode the body as UTF-8.")) from None


def _check_depth(text: str) -> None:
    brackets = _BRACKETS.sub("", _STRINGS.sub("", text))
    depth = max(accumulate(1 if bracket in "[{" else -1 for bracket in brackets), default=0)
    if depth > MAX_DEPTH:
        what = f"the document nests {depth} levels deep"
        raise BadBody(Fault(what, "", f"at most {MAX_DEPTH} levels", f"{depth} levels", "Flatten the document."))


def _check_text(text: str, content: object) -> None:
    if _SURROGATE.search(text):
        json.dumps(content, ensure_ascii=False).encode()


def _explain_syntax(text: str, error: json.JSONDecodeError) -> Fault:
    what = f"the body is not JSON: {error.msg} in line {error.lineno}, column {error.colno}"
    got = text[max(0, error.pos - 20) : error.pos + 20] or "the end of the body"
    return Fault(what, "", _EXPECTED, got, "Check the document with a JSON parser.")


def _explain_numbers(content: object) -> list[Fault]:
    """Return one fault for each of the first numbers that are not finite."""
    advice = 'JSON has no NaN or Infinity; the infinity norm is written "inf".'
    return [
        Fault(f"{format_spot(path)} is not a finite number", format_pointer(path), "a finite number", str(value), advice)
        for path, value in islice(_find_non_finite(content), MAX_LISTED)
    ]


def _find_non_finite(content: object) -> Iterator[tuple[Path, float]]:
    pending: list[tuple[Path, object]] = [((), content)]
    while pending:
        path, value = pending.pop()
        if isinstance(value, float) and not math.isfinite(value):
            yield path, value
        elif isinstance(value, dict):
            pending += [((*path, name), entry) for name, entry in reversed(value.items())]
        elif isinstance(value, list):
            pending += [((*path, i), entry) for i, entry in reversed(list(enumerate(value)))]
