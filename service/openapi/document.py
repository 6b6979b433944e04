"""Builds the OpenAPI document from the routes."""

import json
from collections.abc import Sequence
from typing import Any

from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from schemas.version import VERSION
from service.openapi.components import COMPONENTS

DESCRIPTION = (
    "Audits trained models for the damage that small changes of their weights can do. "
    "Upload a model and data, submit an audit, wait for its report, judge it by a policy. "
    "Every error is an RFC 9457 problem that lists all faults at once."
)


def build_document(routes: Sequence[APIRoute]) -> dict[str, Any]:
    """Return the OpenAPI document of `routes`."""
    document = get_openapi(title="Faultline", version=VERSION, description=DESCRIPTION, routes=routes)
    for operations in document["paths"].values():
        for operation in operations.values():
            _drop_framework_errors(operation["responses"])
    document["components"] = {"schemas": dict(sorted(COMPONENTS.items()))}
    return document


def _drop_framework_errors(responses: dict[str, Any]) -> None:
    """Remove the 422 that the framework declares for every parameter; ours are declared by the routes that answer them."""
    if "application/json" in responses.get("422", {}).get("content", {}):
        del responses["422"]


def format_document(document: dict[str, Any]) -> str:
    """Return the document as it is committed: stable order, one value per line."""
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
