"""How the gate speaks: numbers, sets and scopes in sentences. Names come from model files and are escaped."""

import math
from typing import Any

from schemas.problem import clean_text
from schemas.report import BreakingPoint, Finding

MAX_NAME = 200


def show_number(value: float) -> str:
    """Return a number as a person writes it.

    >>> show_number(0.1), show_number(12345678.0), show_number(0.00012344)
    ('0.1', '1.235e+07', '0.0001234')
    """
    return f"{value:.4g}"


def show_pair(observed: float, threshold: float) -> tuple[str, str]:
    """Return two numbers with as many digits as it takes to tell them apart.

    >>> show_pair(0.500001, 0.5)
    ('0.500001', '0.5')
    """
    for digits in (4, 6, 9, 12, 17):
        texts = f"{observed:.{digits}g}", f"{threshold:.{digits}g}"
        if texts[0] != texts[1] or observed == threshold:
            return texts
    return repr(observed), repr(threshold)


def add_article(name: str) -> str:
    """Return a figure's name with its article.

    >>> add_article("accuracy drop"), add_article("loss change")
    ('an accuracy drop', 'a loss change')
    """
    return f"an {name}" if name[:1] in "aeio" else f"a {name}"


def name_scope(kind: str, name: str) -> str:
    """Return what to call a scope in a sentence.

    >>> name_scope("model", "model"), name_scope("per_module", "features.3"), name_scope("named", "attention")
    ('the whole model', 'module features.3', 'attention')
    """
    if kind == "model":
        return "the whole model"
    prefix = {"per_module": "module ", "per_tensor": "tensor ", "per_component": "component ", "per_depth": "depth "}.get(
        kind, ""
    )
    return prefix + clean_text(name, MAX_NAME)


def name_cell(finding: Finding) -> str:
    """Return scope, set and id of a finding."""
    return f"{name_scope(finding.scope.kind, finding.scope.name)} ({name_set(finding)}; finding {clean_text(finding.id, 64)})"


def name_set(finding: Finding) -> str:
    """Return the corruption set in words; the number of weights only where the set bounds it."""
    given = finding.set
    few = f" on at most {given.max_corrupted} weights" if given.max_corrupted is not None else ""
    return f"{name_ball(given.norm, given.epsilon, given.scale)}{few}"


def name_ball(norm: Any, epsilon: float, scale: str) -> str:
    """Return norm, epsilon and scale in words; the paper's scale goes without saying."""
    name = clean_text(scale, MAX_NAME)
    if name.startswith("rounding_"):
        return f"{name.removeprefix('rounding_').replace('_', ' ')} rounding"
    return f"norm {show_norm(norm)}, epsilon {show_number(epsilon)}" + ("" if name == "absolute" else f" ({name} scale)")


def name_limit(point: BreakingPoint) -> str:
    """Return the limit of a breaking point in words."""
    limit = point.limit
    if limit.get("metric") is not None:
        return f"{add_article(clean_text(str(limit['metric']), MAX_NAME))} drop of {_show_any(limit.get('drop'))}"
    return f"a loss change of {_show_any(limit.get('loss_change'))}"


def name_point(point: BreakingPoint) -> str:
    """Return where a breaking point was looked for, in words."""
    scope = "the whole model" if point.scope == "model" else f"scope {clean_text(point.scope, MAX_NAME)}"
    scale = clean_text(str(point.set.get("scale")), MAX_NAME)
    fixed = f", epsilon {_show_any(point.set.get('epsilon'))}" if point.along == "max_corrupted" else ""
    return f"{scope} under norm {show_norm(point.set.get('norm'))}{fixed}" + ("" if scale == "absolute" else f" ({scale} scale)")


def show_place(point: BreakingPoint, value: float) -> str:
    """Return a place along a breaking point in words: an epsilon, or a number of weights."""
    if point.along == "epsilon":
        return f"epsilon {show_number(value)}"
    return f"{value:.0f} corrupted weight" + ("s" if value > 1 else "")


def show_norm(norm: Any) -> str:
    """Return the p of a norm as it is written in a request."""
    if norm == math.inf:
        return "inf"
    return _show_any(norm)


def _show_any(value: Any) -> str:
    """Return a value that the report's contract leaves open: a number as numbers are shown, anything else as text."""
    return show_number(value) if isinstance(value, float) else clean_text(str(value), MAX_NAME)
