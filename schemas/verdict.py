"""Verdict: what a policy says of a report."""

from datetime import date
from typing import Literal

from schemas.base import Output

Outcome = Literal["pass", "warn", "fail", "inconclusive"]


class ConditionVerdict(Output):
    """One condition's outcome with its worst matching finding."""

    id: str
    outcome: Outcome
    finding: str | None
    scope: str | None
    matched: int
    observed: float | None
    threshold: float
    waived_by: str | None
    message: str


class RequirementVerdict(Output):
    """One entry of `requires`: met or not, and what was seen."""

    name: str
    met: bool
    outcome: Outcome
    message: str


class CoverageLine(Output):
    """What share of the weights the verdict speaks of."""

    weights_total: int
    weights_audited: int
    message: str


class RegressionVerdict(Output):
    """The comparison with a baseline report."""

    outcome: Outcome
    compared: int
    baseline_sha256: str | None
    messages: tuple[str, ...]


class ExpiredWaiver(Output):
    """A waiver that no longer counts."""

    condition: str
    scope: str | None
    owner: str
    expires: date


class Verdict(Output):
    """The gate's answer. A pass means: nothing above the limits was found with this method and budget."""

    schema_version: Literal[1]
    outcome: Outcome
    assurance: Literal["searched", "certified"]
    policy_name: str
    policy_sha256: str
    report_sha256: str
    model_sha256: str
    conditions: tuple[ConditionVerdict, ...]
    requires: tuple[RequirementVerdict, ...]
    coverage: CoverageLine
    regression: RegressionVerdict | None
    expired_waivers: tuple[ExpiredWaiver, ...]
    reasons: tuple[str, ...]
