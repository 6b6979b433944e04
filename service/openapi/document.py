"""Builds the OpenAPI document from the routes."""

import json
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from schemas.errors import FaultlineError, Forbidden, NotAuthenticated, TooManyRequests
from schemas.keys import KeyScope
from schemas.problem import MEDIA_TYPE
from schemas.version import VERSION
from service.access import find_access
from service.openapi.components import COMPONENTS
from service.openapi.declare import answers_nothing, declare_problems
from service.openapi.links import add_links
from service.representation import UNCACHED

SCHEME = "key"
BEARER = {
    "type": "http",
    "scheme": "bearer",
    "bearerFormat": "fl_<id>_<secret>",
    "description": "A key; each call names the scope that it takes. A service on loopback asks for none unless told to.",
}

DESCRIPTION = (
    "Audits trained models for the damage that small changes of their weights can do. "
    "Upload a model and data, submit an audit, wait for its report, judge it by a policy. "
    "Every error is an RFC 9457 problem that lists all faults at once."
)


def build_document(routes: Sequence[APIRoute]) -> dict[str, Any]:
    """Return the OpenAPI document of `routes`."""
    document = get_openapi(title="Faultline", version=VERSION, description=DESCRIPTION, routes=routes)
    for route in routes:
        if route.include_in_schema:
            _restore_contents(route, document["paths"][route.path])
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            _drop_framework_errors(operation["responses"])
            _declare_same(method, path, operation["responses"])
            _declare_access(operation, find_access(method.upper(), path).scope)
    document["components"] = {"schemas": dict(sorted(COMPONENTS.items())), "securitySchemes": {SCHEME: BEARER}}
    add_links(document)
    return document


def _restore_contents(route: APIRoute, operations: dict[str, Any]) -> None:
    """Put back what the routes declared of bodies: the framework leaves out every null, in examples too."""
    for method in route.methods or ():
        operation = operations[method.lower()]
        for status, declared in route.responses.items():
            if "content" in declared:
                operation["responses"][str(status)]["content"] = deepcopy(declared["content"])
        taken = (route.openapi_extra or {}).get("requestBody")
        if taken is not None:
            operation["requestBody"] = deepcopy(taken)


def _declare_same(method: str, path: str, responses: dict[str, Any]) -> None:
    """Add what holds for every document that can be asked for again: its tag, and 304 for who holds it."""
    if method != "get" or path in UNCACHED or "304" in responses:
        return
    for status, response in answers_nothing(304, "The caller holds it.", "ETag").items():
        responses[str(status)] = response
    responses["200"].setdefault("headers", {}).setdefault("ETag", responses["304"]["headers"]["ETag"])


def _declare_access(operation: dict[str, Any], scope: KeyScope | None) -> None:
    """Add what holds for every route: the scope of the key that it asks for, and how callers are turned away."""
    keyed: list[type[FaultlineError]] = [NotAuthenticated, TooManyRequests] if scope else []
    for status, response in declare_problems(Forbidden, *keyed).items():
        declared = operation["responses"].setdefault(str(status), response)
        if declared is not response:  # the route has a problem of its own with this status
            own, ours = (one["content"][MEDIA_TYPE] for one in (declared, response))
            own["examples"] = {**own["examples"], **ours["examples"]}
    operation["security"] = [{SCHEME: [scope]}, {}] if scope else []


def _drop_framework_errors(responses: dict[str, Any]) -> None:
    """Remove the 422 that the framework declares for every parameter; ours are declared by the routes that answer them."""
    if "application/json" in responses.get("422", {}).get("content", {}):
        del responses["422"]


def format_document(document: dict[str, Any]) -> str:
    """Return the document as it is committed: stable order, one value per line."""
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
