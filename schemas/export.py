"""Writes the JSON Schemas of the published documents: `python -m schemas.export [FOLDER]`."""

import json
import sys
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from schemas.inspection import Inspection, InspectionRequest
from schemas.job import Job
from schemas.plan import PlanAnswer
from schemas.policy import Policy
from schemas.problem import Problem
from schemas.report import Report
from schemas.request import AuditRequest
from schemas.verdict import Verdict

DIALECT = "https://json-schema.org/draft/2020-12/schema"
DOCUMENTS: dict[str, tuple[type[BaseModel], Literal["validation", "serialization"]]] = {
    "audit_request": (AuditRequest, "validation"),
    "policy": (Policy, "validation"),
    "job": (Job, "serialization"),
    "report": (Report, "serialization"),
    "verdict": (Verdict, "serialization"),
    "plan": (PlanAnswer, "serialization"),
    "inspection_request": (InspectionRequest, "validation"),
    "inspection": (Inspection, "serialization"),
    "problem": (Problem, "serialization"),
}
"""File stem -> the contract, and whether its schema tells what is accepted or what is sent."""


def render_schema(stem: str) -> str:
    """Return the JSON Schema of one document as the text of its file."""
    model, mode = DOCUMENTS[stem]
    schema = {"$schema": DIALECT, **model.model_json_schema(mode=mode)}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def write_schemas(folder: Path) -> None:
    """Write every schema into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for stem in DOCUMENTS:
        (folder / f"{stem}.json").write_text(render_schema(stem), encoding="utf-8")


if __name__ == "__main__":
    write_schemas(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/schemas"))
