"""Which answers lead to which calls, in the words of OpenAPI: what one call made, the next one names."""

from typing import Any, NamedTuple

ID, SHA256 = "$response.body#/id", "$request.path.sha256"


class _Lead(NamedTuple):
    """From the answers of an operation with these statuses to others, whose parameter is found there."""

    operation: str
    statuses: tuple[str, ...]
    parameter: str
    found: str
    targets: tuple[str, ...]


_LEADS = (
    _Lead("post_audit", ("202",), "audit_id", ID, ("get_audit", "get_report", "get_verdict", "cancel_audit")),
    _Lead("post_plan", ("202",), "job_id", ID, ("get_plan",)),
    _Lead("post_inspection", ("202",), "job_id", ID, ("get_inspection",)),
    _Lead("put_artifact", ("200", "201"), "sha256", SHA256, ("get_artifact", "head_artifact")),
    _Lead("post_upload", ("201",), "upload_id", ID, ("get_upload", "patch_upload", "delete_upload")),
    _Lead("post_key", ("201",), "key_id", ID, ("get_key", "post_rotation", "delete_key")),
)


def add_links(document: dict[str, Any]) -> None:
    """Add the links to the answers that they start from."""
    operations = {one["operationId"]: one for methods in document["paths"].values() for one in methods.values()}
    for lead in _LEADS:
        for status in lead.statuses:
            links = operations[lead.operation]["responses"][status].setdefault("links", {})
            for target in lead.targets:
                links[target] = {"operationId": target, "parameters": {lead.parameter: lead.found}}
