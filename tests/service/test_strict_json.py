"""Properties of the strict JSON reader; the standard library's lenient one is the oracle for documents that are fine."""

import json
import time

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from schemas.errors import BadBody, InvalidRequest
from schemas.request import ModelReference
from service.strict_json import MAX_DEPTH, check_json, parse_json

DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=60, deadline=None)
@given(document=DOCUMENTS, ascii_only=st.booleans())
def test_what_is_json_is_read_as_json(document: object, ascii_only: bool) -> None:
    body = json.dumps(document, ensure_ascii=ascii_only).encode()
    assert parse_json(body) == json.loads(body)


@settings(max_examples=60, deadline=None)
@given(body=st.binary(max_size=60) | st.text(alphabet='[]{}",:\\u0dDaeE+-.1 \n', max_size=60).map(str.encode))
def test_any_other_bytes_are_refused_in_words(body: bytes) -> None:
    try:
        json.dumps(json.loads(body), allow_nan=False, ensure_ascii=False).encode()
        assume(False)  # lenient readers take it too
    except (ValueError, RecursionError):
        pass
    with pytest.raises(BadBody) as caught:
        parse_json(body)
    assert caught.value.faults
    assert all(fault.what and fault.expected and fault.got and fault.advice for fault in caught.value.faults)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"{", "line 1, column 2"),
        (b'{"a": 1} x', "Extra data"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b'\xef\xbb\xbf{"a": 1}', "not JSON"),
        (b'{"a": 1, "a": 2}', '"a" twice'),
        (b'{"a": {"b": [{"c": 1, "c": 1}]}}', '"c" twice'),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "nests"),
        (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, "nests"),
        (b"[" * 50_000, "nests"),
        (b'{"n": ' + b"9" * 5000 + b"}", "too long"),
    ],
)
def test_the_refusal_says_what_is_wrong(body: bytes, words: str) -> None:
    with pytest.raises(BadBody) as caught:
        parse_json(body)
    assert words in caught.value.faults[0].what


def test_brackets_inside_texts_are_no_nesting() -> None:
    text = "[{" * 1000 + '\\"' + "[" * 100
    assert parse_json(json.dumps({"a": text}).encode()) == {"a": text}


def test_every_number_that_is_not_finite_is_listed_with_its_pointer() -> None:
    with pytest.raises(BadBody) as caught:
        parse_json(b'{"a/b": [1, NaN, {"c": -Infinity}], "d": Infinity, "e": 1e999, "f": 1}')
    assert {fault.where: fault.got for fault in caught.value.faults} == {
        "/a~1b/1": "nan",
        "/a~1b/2/c": "-inf",
        "/d": "inf",
        "/e": "inf",
    }


@pytest.mark.parametrize("value", ["1", True, None, [1]])
def test_types_are_taken_as_they_stand(value: object) -> None:
    body = json.dumps({"uri": "artifact:sha256:" + "0" * 64, "sha256": value}).encode()
    if value is None:
        assert check_json(ModelReference, body, json.loads(body)).sha256 is None
        return
    with pytest.raises(InvalidRequest) as caught:
        check_json(ModelReference, body, json.loads(body))
    assert [fault.where for fault in caught.value.faults] == ["/sha256"]


@pytest.mark.parametrize(
    "body", [b'"' + b'\\"' * 500_000, b'"' * 1_000_001, b"\\" * 1_000_000, b'["' + b"a" * 1_000_000, b"[]," * 300_000]
)
def test_reading_takes_time_in_proportion_to_the_body(body: bytes) -> None:
    start = time.process_time()
    with pytest.raises(BadBody):
        parse_json(body)
    assert time.process_time() - start < 2.0  # quadratic would be minutes
