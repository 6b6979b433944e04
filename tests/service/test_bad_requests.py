"""Every way to ask wrongly gets 4xx and, for each fault, where it is and what to do; all faults come at once."""

import json
from typing import Any

import httpx2
import pytest

from schemas.report import Report
from schemas.request import AuditRequest
from tests.service import documents
from tests.service.conftest import REQUEST_LIMIT
from tests.service.documents import build_request
from tests.service.problems import read_problem

ABSENT = {"uri": "artifact:sha256:" + "e" * 64}
SET = {"norm": 2, "epsilon": [0.1]}
CONDITION = {"id": "a", "require": {"loss_change_at_most": 1}}
POLICY = {"name": "p", "conditions": [CONDITION]}


def policy(**fields: Any) -> dict[str, Any]:
    return build_request(policy={**POLICY, **fields})


FIELDS: dict[str, tuple[object, list[str]]] = {
    "unknown field": (build_request(epsilon=1), ["/epsilon"]),
    "unknown field inside": (build_request(sets=[{**SET, "epsilons": [1]}]), ["/sets/0/epsilons"]),
    "no model and no data": ({}, ["/model", "/data"]),
    "null model": (build_request(model=None), ["/model"]),
    "model as text": (build_request(model="artifact:sha256:" + "0" * 64), ["/model"]),
    "file path as model": (build_request(model={"uri": "file:///etc/passwd"}, data=ABSENT), ["/data/uri", "/model/uri"]),
    "address inside as model": (
        build_request(model={"uri": "https://169.254.169.254/"}, data=ABSENT),
        ["/data/uri", "/model/uri"],
    ),
    "nowhere as model": (build_request(model={"uri": "model.onnx"}), ["/model/uri"]),
    "upper-case digest": (build_request(model={"uri": "artifact:sha256:" + "A" * 64}), ["/model/uri"]),
    "unknown format": (build_request(model={"uri": documents.MODEL_URI, "format": "keras"}), ["/model/format"]),
    "short pin": (build_request(model={"uri": documents.MODEL_URI, "sha256": "00"}), ["/model/sha256"]),
    "pin of another file": (build_request(model={"uri": documents.MODEL_URI, "sha256": "0" * 64}), ["/model"]),
    "epsilon zero": (build_request(sets=[{"norm": 2, "epsilon": [0]}]), ["/sets/0/epsilon/0"]),
    "epsilon negative, second of three": (build_request(sets=[{"norm": 2, "epsilon": [1, -1, 2]}]), ["/sets/0/epsilon/1"]),
    "epsilon as text": (build_request(sets=[{"norm": 2, "epsilon": ["0.1"]}]), ["/sets/0/epsilon/0"]),
    "epsilon true": (build_request(sets=[{"norm": 2, "epsilon": [True]}]), ["/sets/0/epsilon/0"]),
    "epsilon beyond floats": (build_request(sets=[{"norm": 2, "epsilon": [10**400]}]), ["/sets/0/epsilon/0"]),
    "epsilon not a list": (build_request(sets=[{"norm": 2, "epsilon": 0.1}]), ["/sets/0/epsilon"]),
    "no epsilon": (build_request(sets=[{"norm": 2, "epsilon": []}]), ["/sets/0/epsilon"]),
    "epsilon missing": (build_request(sets=[{"norm": 2}]), ["/sets/0/epsilon"]),
    "epsilon twice": (build_request(sets=[{"norm": 2, "epsilon": [0.1, 0.1]}]), ["/sets/0/epsilon"]),
    "norm below one": (build_request(sets=[{"norm": 0.5, "epsilon": [1]}]), ["/sets/0/norm"]),
    "norm of another name": (build_request(sets=[{"norm": "linf", "epsilon": [1]}]), ["/sets/0/norm"]),
    "norm as list": (build_request(sets=[{"norm": [2], "epsilon": [1]}]), ["/sets/0/norm"]),
    "n zero": (build_request(sets=[{**SET, "max_corrupted": [0]}]), ["/sets/0/max_corrupted/0"]),
    "n a fraction": (build_request(sets=[{**SET, "max_corrupted": [1.5]}]), ["/sets/0/max_corrupted/0"]),
    "no sets": (build_request(sets=[]), ["/sets"]),
    "scale not built yet": (build_request(sets=[{**SET, "scale": "filter"}]), ["/sets/0/scale"]),
    "format to round to not built yet": (build_request(sets=[{"rounding": "int4"}]), ["/sets/0/rounding"]),
    "confidence of one": (build_request(confidence=1.0), ["/confidence"]),
    "too many sets": (build_request(sets=[SET] * 65), ["/sets"]),
    "too many cells": (build_request(sets=[{"norm": 2, "epsilon": [i + 1 for i in range(64)]}] * 16), [""]),
    "unknown scope": (build_request(scopes=["per_layer"]), ["/scopes/0"]),
    "scope without a pattern": (build_request(scopes=["model", {"name": "head"}]), ["/scopes/1/match"]),
    "scope named as a kind": (build_request(scopes=[{"name": "model", "match": "*"}]), ["/scopes/0"]),
    "scope twice": (build_request(scopes=["model", "model"]), [""]),
    "unknown loss": (build_request(objective={"loss": "hinge"}), ["/objective/loss"]),
    "metric of another loss": (build_request(objective={"loss": "mse", "metrics": ["accuracy"]}), ["/objective"]),
    "negative output": (build_request(objective={"output": -1}), ["/objective/output"]),
    "budget zero": (build_request(search={"budget_passes": 0}), ["/search/budget_passes"]),
    "seed too large": (build_request(search={"seed": 2**63}), ["/search/seed"]),
    "no limit": (build_request(breaking_points=[{"limit": {}}]), ["/breaking_points/0/limit"]),
    "range falls": (
        build_request(breaking_points=[{"limit": {"loss_change": 1}, "range": [2, 1]}]),
        ["/breaking_points/0"],
    ),
    "range of one": (
        build_request(breaking_points=[{"limit": {"loss_change": 1}, "range": [2]}]),
        ["/breaking_points/0/range/1"],
    ),
    "label not text": (build_request(labels={"a/b": 1}), ["/labels/a~1b"]),
    "label name too long": (build_request(labels={"x" * 200: "1"}), ["/labels/" + "x" * 200]),
    "fresh as text": (build_request(fresh="yes"), ["/fresh"]),
    "another schema version": (build_request(schema_version=2), ["/schema_version"]),
    "policy without conditions": (policy(conditions=[]), ["/policy/conditions"]),
    "condition id twice": (policy(conditions=[CONDITION, CONDITION]), ["/policy"]),
    "two demands in one": (
        policy(conditions=[{"id": "a", "require": {"loss_change_at_most": 1, "breaking_point_at_least": 1}}]),
        ["/policy/conditions/0/require"],
    ),
    "waiver without a date": (
        policy(waivers=[{"condition": "a", "reason": "r", "owner": "o", "expires": "soon"}]),
        ["/policy/waivers/0/expires"],
    ),
    "document is a list": ([], [""]),
    "document is text": ("audit", [""]),
    "document is null": (None, [""]),
    "faults in many places": (
        build_request(sets=[{"norm": 0, "epsilon": [0, 1, -1]}, {"norm": "x"}], scopes=["x"], fresh=3, foo=1),
        [
            "/fresh",
            "/foo",
            "/scopes/0",
            "/sets/0/epsilon/0",
            "/sets/0/epsilon/2",
            "/sets/0/norm",
            "/sets/1/epsilon",
            "/sets/1/norm",
        ],
    ),
}


@pytest.mark.parametrize(("document", "pointers"), FIELDS.values(), ids=FIELDS)
def test_a_bad_field_is_told_by_its_pointer(http: httpx2.Client, document: object, pointers: list[str]) -> None:
    headers = {"Content-Type": "application/json"}
    problem = read_problem(http.post("/v1/audits", content=json.dumps(document), headers=headers), 422)
    assert problem.code == "invalid_request"
    assert sorted(item.where for item in problem.errors) == sorted(pointers)


BODIES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", ""),
    "not JSON": (b"model: x", ""),
    "half": (b'{"model": {', ""),
    "not UTF-8": (b'{"\xff": 1}', ""),
    "NaN epsilon": (json.dumps(build_request(sets=[{"norm": 2, "epsilon": [float("nan")]}])).encode(), "/sets/0/epsilon/0"),
    "infinite epsilon": (json.dumps(build_request(sets=[{"norm": 2, "epsilon": [float("inf")]}])).encode(), "/sets/0/epsilon/0"),
    "infinity as norm": (json.dumps(build_request(sets=[{"norm": float("inf"), "epsilon": [1]}])).encode(), "/sets/0/norm"),
    "number beyond floats": (b'{"search": {"seed": 1e999}}', "/search/seed"),
    "name twice": (b'{"fresh": true, "fresh": false}', ""),
    "nested too deep": (b'{"labels":' * 1000 + b"1" + b"}" * 1000, ""),
    "unclosed brackets": (b"[" * 30_000, ""),
    "half a surrogate pair": (b'{"labels": {"a": "\\ud800"}}', ""),
    "integer of 5,000 digits": (b'{"search": {"seed": ' + b"9" * 5000 + b"}}", ""),
}


@pytest.mark.parametrize(("body", "pointer"), BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("path", ["/v1/audits", "/v1/verdicts"])
def test_a_body_that_is_no_json_is_refused(http: httpx2.Client, path: str, body: bytes, pointer: str) -> None:
    problem = read_problem(http.post(path, content=body, headers={"Content-Type": "application/json"}), 400)
    assert problem.code == "bad_body"
    assert [item.where for item in problem.errors] == [pointer]


@pytest.mark.parametrize(
    "media_type", ["text/plain", "application/x-www-form-urlencoded", "application/yaml", "application/jsonx", ""]
)
@pytest.mark.parametrize("path", ["/v1/audits", "/v1/verdicts"])
def test_another_media_type_is_refused(http: httpx2.Client, path: str, media_type: str) -> None:
    headers = {"Content-Type": media_type} if media_type else {}
    problem = read_problem(http.post(path, content=b"{}", headers=headers), 415)
    assert problem.errors[0].where == "header: Content-Type"


def test_a_body_over_the_limit_is_refused_even_if_it_would_be_json(http: httpx2.Client) -> None:
    problem = read_problem(http.post("/v1/audits", json=build_request(labels={"a": "x" * REQUEST_LIMIT})), 413)
    assert problem.errors[0].expected == f"at most {REQUEST_LIMIT} bytes"


@pytest.mark.parametrize("keys", [[""], ["x" * 256], ["a", "b"], ["é"], ["a\tb"]])
def test_a_key_that_cannot_be_used_is_told_with_all_else(http: httpx2.Client, keys: list[str]) -> None:
    headers = [(b"Idempotency-Key", key.encode()) for key in keys]
    response = http.post("/v1/audits", json=build_request(fresh=1), headers=headers)
    assert [item.where for item in read_problem(response, 422).errors] == ["header: Idempotency-Key", "/fresh"]


PATHS: dict[str, tuple[str, int, list[str]]] = {
    "no such route": ("/v1/audit", 404, [""]),
    "trailing slash": ("/v1/audits/", 404, [""]),
    "root": ("/", 404, [""]),
    "no such page of documentation": ("/redoc", 404, [""]),
    "limit zero": ("/v1/audits?limit=0", 422, ["query: limit"]),
    "limit too large": ("/v1/audits?limit=101", 422, ["query: limit"]),
    "limit as text": ("/v1/audits?limit=many", 422, ["query: limit"]),
    "limit empty": ("/v1/audits?limit=", 422, ["query: limit"]),
    "unknown state": ("/v1/audits?state=done", 422, ["query: state"]),
    "cursor made up": ("/v1/audits?cursor=abc", 422, ["query: cursor"]),
    "cursor too long": ("/v1/audits?cursor=" + "a" * 300, 422, ["query: cursor"]),
    "misspelt parameter": ("/v1/audits?sate=failed", 422, ["query: sate"]),
    "all of them": ("/v1/audits?limit=x&state=y&z=1", 422, ["query: limit", "query: state", "query: z"]),
    "digest too short": ("/v1/artifacts/abc", 422, ["path: sha256"]),
    "digest in upper case": ("/v1/artifacts/" + "A" * 64, 422, ["path: sha256"]),
    "way out of the store": ("/v1/artifacts/..%2f..%2fetc%2fpasswd", 404, [""]),
    "control characters": ("/v1/%00%1b[31m%ff", 404, [""]),
}


@pytest.mark.parametrize(("path", "status", "places"), PATHS.values(), ids=PATHS)
def test_a_bad_path_or_parameter_is_told_by_its_name(http: httpx2.Client, path: str, status: int, places: list[str]) -> None:
    assert [item.where for item in read_problem(http.get(path), status).errors] == places


VERDICTS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "nothing": ({}, ["/policy"]),
    "neither report nor audit": ({"policy": POLICY}, [""]),
    "both": ({"policy": POLICY, "audit_id": "a", "report": json.loads(documents.REPORT)}, [""]),
    "report that is none": (
        {"policy": POLICY, "report": {}},
        ["/report/" + name for name, field in Report.model_fields.items() if field.is_required()],
    ),
    "baseline of another type": ({"policy": POLICY, "audit_id": "a", "baseline": 3}, ["/baseline"]),
    "unknown field": ({"policy": POLICY, "audit_id": "a", "reports": []}, ["/reports"]),
    "bad condition": (
        {"policy": {"name": "p", "conditions": [{"id": "-"}]}, "audit_id": "a"},
        ["/policy/conditions/0/id", "/policy/conditions/0/require"],
    ),
}


@pytest.mark.parametrize(("document", "pointers"), VERDICTS.values(), ids=VERDICTS)
def test_a_bad_verdict_request_is_told_by_its_pointer(http: httpx2.Client, document: object, pointers: list[str]) -> None:
    problem = read_problem(http.post("/v1/verdicts", json=document), 422)
    assert sorted(item.where for item in problem.errors) == sorted(pointers)


def test_there_are_more_than_thirty_ways() -> None:
    assert len(FIELDS) + len(BODIES) + len(PATHS) + len(VERDICTS) > 80


def test_the_smallest_request_of_the_table_is_itself_fine() -> None:
    assert AuditRequest.model_validate(build_request()).sets is None
