"""Requests and reports for the tests of the API."""

from typing import Any

from schemas.base import canonical_bytes, compute_sha256
from schemas.report import Report
from service.openapi import examples

MODEL = b"a model; the API never looks inside"
DATA = b"data; the API never looks inside"
MODEL_SHA256 = compute_sha256(MODEL)
DATA_SHA256 = compute_sha256(DATA)
MODEL_URI = f"artifact:sha256:{MODEL_SHA256}"
REPORT = canonical_bytes(Report.model_validate(examples.REPORT))
REPORT_SHA256 = compute_sha256(REPORT)
STRICT: dict[str, Any] = {"name": "strict", "conditions": [{"id": "loss", "require": {"loss_change_at_most": 0.001}}]}
LENIENT: dict[str, Any] = {"name": "lenient", "conditions": [{"id": "loss", "require": {"loss_change_at_most": 1000}}]}


def build_request(**fields: Any) -> dict[str, Any]:
    """Return the smallest audit request with `fields` on top."""
    named = {"model": {"uri": f"artifact:sha256:{MODEL_SHA256}"}, "data": {"uri": f"artifact:sha256:{DATA_SHA256}"}}
    return {**named, **fields}
