"""docs/contract.md names every field that a document can carry."""

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Literal, get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel

from schemas.data import DataReference
from schemas.inspection import Inspection, InspectionRequest
from schemas.job import Job, JobPage
from schemas.plan import Plan, UnsupportedPlan
from schemas.policy import Policy
from schemas.problem import Problem
from schemas.report import Report
from schemas.request import AuditRequest, ModelReference
from schemas.verdict import Verdict
from tests.project.tree import ROOT

SECTIONS: dict[type[BaseModel], str] = {
    AuditRequest: "Request",
    ModelReference: "Request",
    DataReference: "Request",
    Job: "Job",
    JobPage: "Job",
    Problem: "Problem",
    Report: "Report",
    Plan: "Plan",
    UnsupportedPlan: "Plan",
    Inspection: "Inspection",
    InspectionRequest: "Inspection",
    Policy: "Policy",
    Verdict: "Verdict",
}
SAID_ONCE = {"schema_version"}
"""Every document carries it; the page says so at its top."""


@cache
def read_page(name: str) -> str:
    return (ROOT / f"docs/{name}.md").read_text(encoding="utf-8")


def read_section(title: str) -> str:
    found = re.search(rf"^## {title}$(.*?)(?=^## |\Z)", read_page("contract"), re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found[1]


def find_models(annotation: object) -> Iterator[type[BaseModel]]:
    """Yield the contract models inside an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from find_models(part)


def find_literals(annotation: object) -> Iterator[str]:
    """Yield the words that an annotation allows."""
    for part in get_args(annotation):
        if get_origin(annotation) is Literal and isinstance(part, str):
            yield part
        yield from find_literals(part)


def find_choices(model: type[BaseModel]) -> set[str]:
    """Return every word that a field of a document can hold, at any depth."""
    words: set[str] = set()
    for field in model.model_fields.values():
        words |= set(find_literals(field.annotation))
        for inner in find_models(field.annotation):
            if inner not in SECTIONS:
                words |= find_choices(inner)
    return words


def find_fields(model: type[BaseModel]) -> set[str]:
    """Return every field name of a document, at any depth; a document inside it has its own section."""
    names: set[str] = set()
    for name, field in model.model_fields.items():
        names.add(name)
        for inner in find_models(field.annotation):
            if inner not in SECTIONS:
                names |= find_fields(inner)
    return names


@pytest.mark.parametrize("model", SECTIONS)
def test_every_field_is_documented(model: type[BaseModel]) -> None:
    words = set(re.findall(r"[A-Za-z_0-9]+", read_section(SECTIONS[model])))
    assert find_fields(model) - SAID_ONCE - words == set()


@pytest.mark.parametrize("model", SECTIONS)
def test_every_word_that_a_field_can_hold_is_documented(model: type[BaseModel]) -> None:
    words = set(re.findall(r"[A-Za-z_0-9]+", read_page("contract") + read_page("method")))
    assert find_choices(model) - words == set()


@pytest.mark.parametrize(("title", "model"), [("Request", AuditRequest), ("Policy", Policy)])
def test_the_example_is_a_valid_document(title: str, model: type[BaseModel]) -> None:
    found = re.search(r"```yaml\n(.*?)```", read_section(title), re.DOTALL)
    assert found is not None
    text = re.sub(r"\b[0-9a-f]{4}…", lambda prefix: prefix[0][:4].ljust(64, "0"), found[1])
    model.model_validate_json(json.dumps(yaml.safe_load(text), default=str))
    assert set(yaml.safe_load(text)) == set(model.model_fields)
