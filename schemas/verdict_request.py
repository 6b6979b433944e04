"""VerdictRequest: a policy, a report to judge by it and, if wanted, a baseline report."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from schemas.base import Input
from schemas.policy import Policy
from schemas.report import Report

AuditId = Annotated[str, Field(min_length=1, max_length=128)]


class VerdictRequest(Input):
    """What `POST /v1/verdicts` takes: the report itself or the id of the audit that made it."""

    policy: Policy
    report: Report | None = None
    audit_id: AuditId | None = None
    baseline: Report | AuditId | None = None

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        if (self.report is None) == (self.audit_id is None):
            message = "give either report or audit_id"
            raise ValueError(message)
        return self
