"""The contracts of requests and policies: what is refused, what is one spelling, what decides a digest."""

import copy
import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.base import canonical_bytes, compute_sha256, norm_value
from schemas.errors import Fault, InvalidRequest
from schemas.kinds import compute_request_digest
from schemas.policy import Policy
from schemas.report import Report
from schemas.request import AuditRequest, echo_request
from schemas.validation import check_document
from tests.gate.reports import build_document

MODEL = "artifact:sha256:" + "a" * 64
DATA = "artifact:sha256:" + "b" * 64
POLICY = {"name": "p", "conditions": [{"id": "a", "require": {"loss_change_at_most": 1}}]}


def _request(**changes: Any) -> dict[str, Any]:
    return {"model": {"uri": MODEL}, "data": {"uri": DATA}, "sets": [{"norm": 2, "epsilon": [0.1]}]} | changes


def _refuse(document: object) -> tuple[Fault, ...]:
    with pytest.raises(InvalidRequest) as caught:
        check_document(AuditRequest, document)
    return caught.value.faults


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown field": ({"modle": 1}, "/modle"),
    "unknown nested field": ({"model": {"uri": MODEL, "path": "m.onnx"}}, "/model/path"),
    "other schema version": ({"schema_version": 2}, "/schema_version"),
    "uri without digest": ({"model": {"uri": "artifact:sha256:abc"}}, "/model/uri"),
    "pin of another digest": ({"model": {"uri": MODEL, "sha256": "c" * 64}}, "/model"),
    "format that is not built": ({"model": {"uri": MODEL, "format": "tflite"}}, "/model/format"),
    "loss that is not built": ({"objective": {"loss": "focal"}}, "/objective/loss"),
    "metric of another loss": ({"objective": {"loss": "mse", "metrics": ["accuracy"]}}, "/objective"),
    "metric twice": ({"objective": {"metrics": ["accuracy", "accuracy"]}}, "/objective"),
    "probabilities without classes": ({"objective": {"loss": "mse", "output_kind": "probabilities"}}, "/objective"),
    "negative output": ({"objective": {"output": -1}}, "/objective/output"),
    "NaN epsilon": ({"sets": [{"norm": 2, "epsilon": [math.nan]}]}, "/sets/0/epsilon/0"),
    "infinite epsilon": ({"sets": [{"norm": 2, "epsilon": [math.inf]}]}, "/sets/0/epsilon/0"),
    "epsilon zero": ({"sets": [{"norm": 2, "epsilon": [0.1, 0]}]}, "/sets/0/epsilon/1"),
    "epsilon negative": ({"sets": [{"norm": 2, "epsilon": [-1]}]}, "/sets/0/epsilon/0"),
    "epsilon not a list": ({"sets": [{"norm": 2, "epsilon": 0.1}]}, "/sets/0/epsilon"),
    "epsilon twice": ({"sets": [{"norm": 2, "epsilon": [0.1, 0.1]}]}, "/sets/0/epsilon"),
    "no epsilon": ({"sets": [{"norm": 2, "epsilon": []}]}, "/sets/0/epsilon"),
    "norm below one": ({"sets": [{"norm": 0.5, "epsilon": [1]}]}, "/sets/0/norm"),
    "norm NaN": ({"sets": [{"norm": math.nan, "epsilon": [1]}]}, "/sets/0/norm"),
    "norm in words": ({"sets": [{"norm": "l2", "epsilon": [1]}]}, "/sets/0/norm"),
    "norm as list": ({"sets": [{"norm": [2], "epsilon": [1]}]}, "/sets/0/norm"),
    "norm as object": ({"sets": [{"norm": {}, "epsilon": [1]}]}, "/sets/0/norm"),
    "sample of one": ({"data": {"uri": DATA, "max_examples": 1}}, "/data/max_examples"),
    "sample of held-out data": ({"evaluate_on": {"uri": DATA, "max_examples": 9}}, "/evaluate_on/max_examples"),
    "precision without an end": ({"precision": {"confidence": 0.9}}, "/precision"),
    "precision of nothing": ({"precision": {"relative_error": 0}}, "/precision/relative_error"),
    "precision at even odds": ({"precision": {"relative_error": 0.1, "confidence": 0.5}}, "/precision/confidence"),
    "threshold on a breaking point": (
        {"precision": {"thresholds": [{"breaking_point_at_least": 1}]}},
        "/precision/thresholds/0/breaking_point_at_least",
    ),
    "threshold that is not measured": ({"precision": {"thresholds": [{"metric": "top_5", "drop_at_most": 0.1}]}}, ""),
    "n of zero": ({"sets": [{"norm": 2, "epsilon": [1], "max_corrupted": [0]}]}, "/sets/0/max_corrupted/0"),
    "n of one and a half": ({"sets": [{"norm": 2, "epsilon": [1], "max_corrupted": [1.5]}]}, "/sets/0/max_corrupted/0"),
    "scale that is not built": ({"sets": [{"norm": 2, "epsilon": [1], "scale": "filter"}]}, "/sets/0/scale"),
    "format to round to that is not built": ({"sets": [{"rounding": "int4"}]}, "/sets/0/rounding"),
    "channels of a half-precision format": ({"sets": [{"rounding": "fp16", "granularity": "per_channel"}]}, "/sets/0"),
    "no sets": ({"sets": []}, "/sets"),
    "unknown scope": ({"scopes": ["layers"]}, "/scopes/0"),
    "scope without pattern": ({"scopes": [{"name": "attention"}]}, "/scopes/0/match"),
    "scope named as a kind": ({"scopes": [{"name": "model", "match": "*"}]}, "/scopes/0"),
    "scope twice": ({"scopes": ["model", "model"]}, ""),
    "no scopes": ({"scopes": []}, "/scopes"),
    "search method that is not built": ({"search": {"method": "annealing"}}, "/search/method"),
    "budget of zero": ({"search": {"budget_passes": 0}}, "/search/budget_passes"),
    "negative seed": ({"search": {"seed": -1}}, "/search/seed"),
    "huge seed": ({"search": {"seed": 2**63}}, "/search/seed"),
    "limit without drop": ({"breaking_points": [{"limit": {"metric": "accuracy"}}]}, "/breaking_points/0/limit"),
    "limit of both": (
        {"breaking_points": [{"limit": {"metric": "accuracy", "drop": 0.1, "loss_change": 1}}]},
        "/breaking_points/0/limit",
    ),
    "falling range": ({"breaking_points": [{"limit": {"loss_change": 1}, "range": [1, 1]}]}, "/breaking_points/0"),
    "limit on another loss's metric": ({"breaking_points": [{"limit": {"metric": "mse", "drop": 1}}]}, ""),
    "label that is no text": ({"labels": {"build": 7}}, "/labels/build"),
    "too many cells": ({"sets": [{"norm": 2, "epsilon": [1.0 + i for i in range(64)], "max_corrupted": [*range(1, 65)]}]}, ""),
    "policy without conditions": ({"policy": {"name": "p", "conditions": []}}, "/policy/conditions"),
    "policy condition id twice": ({"policy": POLICY | {"conditions": POLICY["conditions"] * 2}}, "/policy"),  # type: ignore[operator]
}


@pytest.mark.parametrize(("change", "where"), REFUSED.values(), ids=REFUSED.keys())
def test_a_bad_request_is_refused_at_its_place_with_advice(change: dict[str, Any], where: str) -> None:
    faults = _refuse(_request(**change))
    assert [fault.where for fault in faults] == [where]
    assert all((faults[0].what, faults[0].expected, faults[0].got, faults[0].advice))


@pytest.mark.parametrize("document", [None, [], "text", 3, {}])
def test_what_is_no_request_is_refused(document: object) -> None:
    assert _refuse(document)


@pytest.mark.parametrize(("given_norm", "kept"), [("inf", "inf"), (math.inf, "inf"), (2, 2.0), (1, 1.0), ("1.5", 1.5)])
def test_a_norm_has_one_spelling(given_norm: object, kept: object) -> None:
    request = check_document(AuditRequest, _request(sets=[{"norm": given_norm, "epsilon": [1]}]))
    [entry] = request.model_dump()["sets"]
    assert entry["norm"] == kept
    assert norm_value(entry["norm"]) == float(given_norm)  # type: ignore[arg-type]


def test_what_does_not_decide_the_numbers_does_not_change_the_digest() -> None:
    plain = _digest(_request())
    assert _digest(_request(labels={"sha": "1"}, policy=POLICY, fresh=True)) == plain


DECIDING: list[dict[str, Any]] = [
    {"model": {"uri": DATA}},
    {"model": {"uri": MODEL, "format": "onnx"}},
    {"data": {"uri": MODEL}},
    {"data": {"uri": DATA, "target": "y"}},
    {"data": {"uri": DATA, "inputs": {"x": "images"}}},
    {"objective": {"metrics": ["top_5"]}},
    {"objective": {"ignore_index": 0}},
    {"sets": [{"norm": 2, "epsilon": [0.2]}]},
    {"sets": None},
    {"scopes": ["model"]},
    {"search": {"seed": 1}},
    {"search": {"method": "first_order"}},
    {"breaking_points": [{"limit": {"loss_change": 1}}]},
    {"data": {"uri": DATA, "max_examples": 100}},
    {"precision": {"relative_error": 0.1}},
    {"precision": {"thresholds": [{"metric": "accuracy", "drop_at_most": 0.1}]}},
]


def test_everything_that_decides_the_numbers_changes_the_digest() -> None:
    digests = [_digest(_request()), *(_digest(_request(**change)) for change in DECIDING)]
    assert len(set(digests)) == len(digests)


def test_the_engine_version_changes_the_digest() -> None:
    request = check_document(AuditRequest, _request())
    assert compute_request_digest(request, "0.1.0") != compute_request_digest(request, "0.1.1")


def test_spelled_out_defaults_do_not_change_the_digest() -> None:
    short = check_document(AuditRequest, _request())
    long = check_document(AuditRequest, echo_request(short))
    assert echo_request(long) == echo_request(short)
    assert _digest(_request()) == compute_request_digest(long, "0.1.0")


def test_a_reader_ignores_fields_it_does_not_know() -> None:
    document = build_document() | {"added_later": 1}
    document["clean"] = document["clean"] | {"added_later": 1}
    assert Report.model_validate(document) == Report.model_validate(build_document())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_report_holds_no_number_that_json_lacks(value: float) -> None:
    document = copy.deepcopy(build_document())
    document["findings"][0]["measured"]["loss_change"] = value
    with pytest.raises(ValueError, match="finite number"):
        Report.model_validate(document)


def test_contracts_are_frozen() -> None:
    policy = Policy.model_validate(POLICY)
    with pytest.raises(ValueError, match="frozen"):
        policy.name = "other"  # type: ignore[misc]


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.dictionaries(st.text(), JSON_VALUES, max_size=5))
def test_canonical_bytes_round_trip_and_ignore_the_order_of_keys(content: dict[str, Any]) -> None:
    spelled = canonical_bytes(content)
    assert json.loads(spelled) == content
    assert canonical_bytes(dict(reversed(content.items()))) == spelled
    assert canonical_bytes(json.loads(spelled)) == spelled


def test_canonical_bytes_are_compact_sorted_utf8() -> None:
    assert canonical_bytes({"b": [1, 0.1, None], "a": "é"}) == '{"a":"é","b":[1,0.1,null]}'.encode()


def test_canonical_bytes_refuse_what_json_lacks() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_bytes({"x": math.nan})


def test_sha256_is_the_published_function() -> None:
    assert compute_sha256(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def _digest(document: dict[str, Any]) -> str:
    return compute_request_digest(check_document(AuditRequest, document), "0.1.0")
