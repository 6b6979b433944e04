"""Gradient-based corruption against random corruption of the same size, in words."""

from client.display.figures import show_change, show_drop
from gate.wording import name_set
from schemas.problem import clean_text
from schemas.report import Finding, Report

MAX_SENTENCES = 3


def compare_with_random(report: Report) -> list[str]:
    """Return sentences for the widest scopes of the report that have random trials."""
    candidates = [finding for finding in report.findings if finding.random is not None and finding.random.trials > 0]
    if not candidates:
        return []
    widest = max(finding.scope.weights for finding in candidates)
    chosen = [finding for finding in candidates if finding.scope.weights == widest][:MAX_SENTENCES]
    sentences = [_compare(finding) for finding in chosen]
    return [*sentences, *_tell_theory(report)]


def _compare(finding: Finding) -> str:
    scope = "the whole model" if finding.scope.kind == "model" else clean_text(finding.scope.name)
    found = _tell_damage(finding, finding.measured.loss_change)
    return f"{name_set(finding)}, {scope}: searching by gradient {found}; {_tell_random(finding)}."


def _tell_damage(finding: Finding, change: float | None) -> str:
    if change is None:
        return "found damage that is not finite"
    drops = [
        f"{metric} by {show_drop(metric, one.drop)}" for metric, one in finding.measured.metrics.items() if one.drop is not None
    ]
    worse = f" and worsens {drops[0]}" if drops else ""
    return f"changes the loss by {show_change(change)}{worse}"


def _tell_random(finding: Finding) -> str:
    random, measured = finding.random, finding.measured.loss_change
    if random is None:
        return "no random corruption was tried"
    if random.non_finite_trials:
        return f"{random.non_finite_trials} of {random.trials} random corruptions of this size did damage that is not finite"
    worst = random.loss_change.max
    text = f"the worst of {random.trials} random corruptions of this size by {show_change(worst)}"
    if worst is None or measured is None or measured <= 0:
        return text
    if worst <= 0:
        return f"{text}, which is no damage at all"
    ratio = measured / worst
    return f"{text}, {ratio:,.0f} times less" if ratio >= 2 else text


def _tell_theory(report: Report) -> list[str]:
    theory = report.theory
    if theory is None:
        return []
    trials = f"about 10^{theory.log10_trials_for_half:.0f} random trials"
    where = f"p = 2, {theory.weights:,} weights"
    return [f"By theory, {trials} reach half of the first-order damage with probability {theory.probability:g} ({where})."]


def compare_models(report: Report) -> list[str]:
    """Return by which figures this model can be compared with another, and by which not, in words."""
    sentences = []
    for can, start in ((True, "The same for two models on the same data"), (False, "Not comparable between models")):
        chosen = [one for one in report.comparability if one.between_models is can]
        figures = [f"{clean_text(one.figure).replace('_', ' ')} ({clean_text(one.scale)} sets)" for one in chosen]
        if figures:
            sentences.append(f"{start}: {', '.join(figures)}.")
    reasons = dict.fromkeys(clean_text(one.reason) for one in report.comparability if not one.between_models)
    return [*sentences, *(f"Why not: {reason}." for reason in reasons)]
