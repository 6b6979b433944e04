"""Schemas of every document that crosses the API, under the names the OpenAPI document refers to."""

from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from schemas.about import About, Health, Readiness
from schemas.artifact import Artifact
from schemas.inspection import Inspection, InspectionRequest
from schemas.job import Job, JobPage
from schemas.keys import KeyInfo, KeyPage, KeyRotation, MadeKey, NewKey
from schemas.plan import PlanAnswer
from schemas.problem import Problem
from schemas.report import Report
from schemas.request import AuditRequest
from schemas.trail import TrailPage
from schemas.upload import UploadState
from schemas.verdict import Verdict
from schemas.verdict_request import VerdictRequest
from schemas.webhooks import Deliveries, WebhookSecret

Mode = Literal["validation", "serialization"]
_POSTED: tuple[type[BaseModel], ...] = (AuditRequest, InspectionRequest, KeyRotation, NewKey, VerdictRequest)
_ANSWERED: tuple[type[BaseModel], ...] = (
    *(About, Artifact, Health, Inspection, Job, JobPage, PlanAnswer, Problem, Readiness, Report, UploadState, Verdict),
    *(Deliveries, KeyInfo, KeyPage, MadeKey, TrailPage, WebhookSecret),
)
_MODES: list[tuple[type[BaseModel], Mode]] = [
    *((model, "validation") for model in _POSTED),
    *((model, "serialization") for model in _ANSWERED),
]
_REFERENCES, _DEFINITIONS = models_json_schema(_MODES, ref_template="#/components/schemas/{model}")

COMPONENTS: dict[str, Any] = _DEFINITIONS["$defs"]


def refer_to(model: type[BaseModel]) -> dict[str, Any]:
    """Return the reference to the schema of `model`, as posted or as answered."""
    mode: Mode = "validation" if model in _POSTED else "serialization"
    return dict(_REFERENCES[model, mode])
