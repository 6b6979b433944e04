"""Which findings and breaking points a condition reads."""

import math
from fnmatch import fnmatchcase
from typing import Any

from schemas.base import norm_value
from schemas.limits import Limit
from schemas.policy import Require, Where
from schemas.report import BreakingPoint, Finding, Report

Kinds = dict[str, frozenset[str]]
"""The kinds of scope that go by each name."""
KINDS = frozenset({"model", "per_module", "per_tensor", "per_component", "per_depth", "named"})


def find_findings(report: Report, where: Where) -> tuple[Finding, ...]:
    """Return the findings that `where` names; a field left out matches everything."""
    return tuple(finding for finding in report.findings if _matches_finding(where, finding))


def find_breaking_points(report: Report, where: Where, require: Require, kinds: Kinds) -> tuple[BreakingPoint, ...]:
    """Return the breaking points that `where` names, along what `require` names, of its metric or limit if it names one."""
    return tuple(point for point in report.breaking_points if _matches_point(where, require, point, kinds))


def matches_scope(pattern: str | None, kinds: frozenset[str], name: str) -> bool:
    """Tell whether a scope is meant by `pattern`: one of the scope kinds, or a glob on the scope's name."""
    if pattern is None:
        return True
    if pattern in KINDS:
        return pattern in kinds
    return pattern == name or fnmatchcase(name, pattern)


def is_same_size(left: float, right: float) -> bool:
    """Tell whether two epsilons are one number that was written twice."""
    return math.isclose(left, right, rel_tol=1e-9)


def asked_limits(finding: Finding) -> frozenset[int | None]:
    """Return every max_corrupted that was asked for and led to this finding."""
    return frozenset({finding.set.max_corrupted, *finding.set.also_asked})


def _matches_finding(where: Where, finding: Finding) -> bool:
    return (
        matches_scope(where.scope, frozenset({finding.scope.kind}), finding.scope.name)
        and (where.norm is None or norm_value(where.norm) == norm_value(finding.set.norm))
        and (where.epsilon is None or is_same_size(where.epsilon, finding.set.epsilon))
        and (where.max_corrupted is None or where.max_corrupted in asked_limits(finding))
        and (where.scale is None or where.scale == finding.set.scale)
    )


def _matches_point(where: Where, require: Require, point: BreakingPoint, kinds: Kinds) -> bool:
    return (
        matches_scope(where.scope, kinds.get(point.scope, frozenset()), point.scope)
        and (where.norm is None or _is_norm(point.set.get("norm"), norm_value(where.norm)))
        and (where.epsilon is None or _is_size(point.set.get("epsilon"), where.epsilon))
        and (where.max_corrupted is None or where.max_corrupted == point.set.get("max_corrupted"))
        and (where.scale is None or where.scale == point.set.get("scale"))
        and require.along == point.along
        and (require.metric is None or require.metric == point.limit.get("metric"))
        and (require.limit is None or _is_limit(require.limit, point))
    )


def _is_limit(limit: Limit, point: BreakingPoint) -> bool:
    """Tell whether a breaking point is of exactly this limit."""
    same = limit.metric == point.limit.get("metric")
    return same and (_is_size(point.limit.get("drop"), limit.drop) or _is_size(point.limit.get("loss_change"), limit.loss_change))


def _is_size(value: Any, wanted: float | None) -> bool:
    return wanted is not None and isinstance(value, int | float) and is_same_size(value, wanted)


def _is_norm(value: Any, norm: float) -> bool:
    return math.isinf(norm) if value == "inf" else bool(value == norm)


def find_kinds(report: Report) -> Kinds:
    """Return the kinds of scope that go by each name; a breaking point gives its scope by name only."""
    kinds: Kinds = {"model": frozenset({"model"})}
    for finding in report.findings:
        kinds[finding.scope.name] = kinds.get(finding.scope.name, frozenset()) | {finding.scope.kind}
    return kinds
