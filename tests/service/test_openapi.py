import subprocess
import sys
from datetime import date
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel, TypeAdapter

from gate.evaluate import evaluate
from schemas.about import About, Health, Readiness
from schemas.artifact import Artifact
from schemas.inspection import Inspection, InspectionRequest
from schemas.job import Job, JobPage
from schemas.keys import KeyInfo, KeyPage, KeyRotation, MadeKey, NewKey
from schemas.plan import Plan, UnsupportedPlan
from schemas.policy import Policy
from schemas.problem import MEDIA_TYPE
from schemas.report import Report
from schemas.request import AuditRequest
from schemas.trail import TrailPage
from schemas.upload import UploadState
from schemas.verdict import Verdict
from schemas.verdict_request import VerdictRequest
from schemas.webhooks import Deliveries, WebhookSecret
from service.app import find_routes
from service.openapi import examples, keys, previews
from service.openapi.document import build_document
from tests.project.tree import ROOT

DOCUMENT = build_document(find_routes())
OPERATIONS = [(path, method, operation) for path, methods in DOCUMENT["paths"].items() for method, operation in methods.items()]
NAMES = [f"{method} {path}" for path, method, _ in OPERATIONS]


def test_the_committed_document_is_the_one_that_the_code_writes() -> None:
    done = subprocess.run([sys.executable, "-m", "service.openapi"], cwd=ROOT, capture_output=True, check=True)
    assert done.stdout.decode() == (ROOT / "docs/openapi.json").read_text(), "run: python -m service.openapi > docs/openapi.json"


@pytest.mark.parametrize(
    ("model", "example"),
    [
        (About, examples.ABOUT),
        (Artifact, examples.ARTIFACT),
        (AuditRequest, examples.AUDIT_REQUEST),
        (Health, examples.HEALTH),
        (Job, examples.QUEUED_JOB),
        (Job, examples.SUCCEEDED_JOB),
        (Job, examples.CANCELLED_JOB),
        (JobPage, examples.JOB_PAGE),
        (Job, previews.PLAN_JOB),
        (Plan, previews.PLAN),
        (UnsupportedPlan, previews.UNSUPPORTED_PLAN),
        (InspectionRequest, previews.INSPECTION_REQUEST),
        (Inspection, previews.INSPECTION),
        (Policy, examples.POLICY),
        (Readiness, examples.READINESS),
        (Report, examples.REPORT),
        (UploadState, previews.UPLOAD),
        (UploadState, previews.STORED_BEFORE),
        (Verdict, examples.VERDICT),
        (Deliveries, previews.DELIVERIES),
        (WebhookSecret, previews.WEBHOOK_SECRET),
        (VerdictRequest, examples.VERDICT_REQUEST),
        (NewKey, keys.NEW_KEY),
        (KeyRotation, keys.KEY_ROTATION),
        (MadeKey, keys.MADE_KEY),
        (KeyInfo, keys.REVOKED_KEY),
        (KeyPage, keys.KEY_PAGE),
        (TrailPage, keys.TRAIL_PAGE),
    ],
)
def test_an_example_is_what_its_contract_says(model: type[BaseModel], example: dict[str, Any]) -> None:
    read = TypeAdapter(model).validate_python(example)
    assert set(example) <= set(type(read).model_fields)
    if model not in {
        AuditRequest,
        InspectionRequest,
        KeyRotation,
        Policy,
        VerdictRequest,
    }:  # what a client posts may leave defaults out
        assert read.model_dump(mode="json") == example


def test_the_example_report_gets_the_example_verdict() -> None:
    report = Report.model_validate(examples.REPORT)
    verdict = evaluate(Policy.model_validate(examples.POLICY), report, examples.REPORT_SHA256, date(2026, 1, 31))
    example = Verdict.model_validate(examples.VERDICT)
    assert verdict.outcome == example.outcome
    for part in ("conditions", "requires"):
        found, shown = getattr(verdict, part), getattr(example, part)
        assert [entry.model_dump(exclude={"message"}) for entry in found] == [
            entry.model_dump(exclude={"message"}) for entry in shown
        ]


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS, ids=NAMES)
def test_a_route_declares_all_that_it_answers(path: str, method: str, operation: dict[str, Any]) -> None:
    assert operation["summary"]
    assert operation["description"].endswith(".")
    responses = operation["responses"]
    assert {"500", "503"} <= responses.keys()
    assert any(status.startswith("2") for status in responses)
    for status, response in responses.items():
        assert response["description"]
        if int(status) >= 400:
            assert response["content"].keys() == {MEDIA_TYPE}
            assert response["content"][MEDIA_TYPE]["examples"]


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS, ids=NAMES)
def test_every_body_has_an_example(path: str, method: str, operation: dict[str, Any]) -> None:
    bodies = [operation.get("requestBody", {}), *operation["responses"].values()]
    for body in bodies:
        for media_type, content in body.get("content", {}).items():
            assert (
                media_type in {"application/octet-stream", "application/partial-upload"}
                or "example" in content
                or "examples" in content
            )


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS, ids=NAMES)
def test_every_example_is_valid_by_its_schema(path: str, method: str, operation: dict[str, Any]) -> None:
    for body in (operation.get("requestBody", {}), *operation["responses"].values()):
        for content in body.get("content", {}).values():
            shown = (
                [content["example"]] if "example" in content else [one["value"] for one in content.get("examples", {}).values()]
            )
            for example in shown:
                schema = {**content["schema"], "components": DOCUMENT["components"]}
                errors = Draft202012Validator(schema).iter_errors(example)
                assert [f"{error.json_path}: {error.message}" for error in errors] == []


def test_every_link_names_an_operation_and_one_of_its_parameters() -> None:
    operations = [operation for *_, operation in OPERATIONS]
    parameters = {one["operationId"]: {entry["name"] for entry in one.get("parameters", [])} for one in operations}
    answers = [answer for one in operations for answer in one["responses"].values()]
    links = [link for answer in answers for link in answer.get("links", {}).values()]
    assert len(links) >= 12
    assert [link for link in links if not link["parameters"].keys() <= parameters[link["operationId"]]] == []


def test_every_reference_leads_somewhere() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    found = set(find_references(DOCUMENT))
    assert found
    assert {name.removeprefix("#/components/schemas/") for name in found} <= schemas.keys()


def find_references(node: object) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [name for value in node.values() for name in find_references(value)]
    if isinstance(node, list):
        return [name for value in node for name in find_references(value)]
    return []
