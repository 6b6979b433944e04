"""Whether upper bounds prove a pass: not only that nothing above a limit was found, but that nothing above it exists."""

from gate.damage import HIGHER_IS_BETTER, read_demand
from gate.matching import find_findings
from schemas.policy import Condition, Policy, Require
from schemas.report import Clean, Finding, Report


def is_proved(policy: Policy, report: Report) -> bool:
    """Tell whether every condition is kept by the upper bounds of everything that it reads; no regression can be proved."""
    # The bounds are of the data that was searched on.
    if report.subject.evaluate_on is not None or report.subject.data.sampled:
        return False
    return policy.regression is None and bool(policy.conditions) and all(_keeps(part, report) for part in policy.conditions)


def _keeps(condition: Condition, report: Report) -> bool:
    if condition.require.breaking_point_at_least is not None or condition.where.bit_flips is not None:
        return False
    findings = find_findings(report, condition.where)
    bounds = [_find_bound(finding, condition.require, report.clean) for finding in findings]
    demand = read_demand(condition.require)
    return bool(bounds) and all(bound is not None and not demand.is_exceeded(bound) for bound in bounds)


def _find_bound(finding: Finding, require: Require, clean: Clean) -> float | None:
    """Return the worst that the demanded figure can be; None where no bound says so."""
    bound, metric = finding.upper_bound, require.metric or ""
    if bound is None or bound.status != "available":
        return None
    if require.loss_change_at_most is not None:
        return bound.loss_change
    drop, value = bound.metrics.get(metric), clean.metrics.get(metric)
    if drop is None or value is None:
        return None
    if require.drop_at_most is not None:
        return drop
    return value - drop if metric in HIGHER_IS_BETTER else value + drop
