"""Conditions on findings: the damage of one cell against a limit."""

import math

from gate.beyond import Seen, judge_limits, read_held_out, read_sampled
from gate.damage import describe_non_finite, find_observed, read_demand
from gate.judgement import Judgement, State
from gate.wording import name_cell, show_number
from schemas.policy import Require
from schemas.report import Finding, Report

ADVICE = "Make these weights sturdier before deploying, or waive this scope until a date."


def judge_finding(finding: Finding, require: Require, report: Report, confidence: float) -> Judgement:
    """Return whether the worst that was measured in the finding's cell keeps the demand."""
    broken = describe_non_finite(finding) or _describe_held_out_loss(finding)
    if broken is not None:
        message = f"a corruption of {name_cell(finding)} {broken}, which exceeds every limit. {ADVICE}"
        return _judge(finding, "exceeded", None, math.inf, message)
    if finding.held_out is not None:
        return _judge_limits(finding, read_held_out(finding.held_out, require), require, report, confidence)
    if report.subject.data.sampled:
        seen = read_sampled(finding.measured, require, report.subject.data.examples)
        return _judge_limits(finding, seen, require, report, confidence)
    return _judge_exact(finding, require, report)


def _describe_held_out_loss(finding: Finding) -> str | None:
    """Return what broke on held-out examples, which is beyond limits on metrics too: as a wrong answer it would count for one."""
    if finding.held_out is None or finding.held_out.loss_change is not None:
        return None
    return "makes the loss of held-out examples NaN or infinite"


def _judge_exact(finding: Finding, require: Require, report: Report) -> Judgement:
    """Return what figures decide that were measured on all of the data."""
    demand, cell = read_demand(require), name_cell(finding)
    observed = find_observed(finding, require, report.clean)
    if observed is None:
        message = f"the audit did not measure the {demand.figure} of {cell}. Ask for it in objective.metrics and audit again."
        return _judge(finding, "undecided", None, math.inf, message)
    badness = demand.compute_excess(observed)
    if demand.is_exceeded(observed):
        message = f"a corruption of {cell} was found that gives {demand.describe(observed)}. {ADVICE}"
        return _judge(finding, "exceeded", observed, badness, message)
    doubt = find_doubt(finding, report)
    if doubt is not None:
        return _judge(finding, "undecided", observed, badness, f"the search on {cell} is incomplete: {doubt}")
    message = f"the worst corruption found of {cell} gives {demand.describe(observed)}."
    return _judge(finding, "holds", observed, badness, message)


def _judge_limits(finding: Finding, seen: Seen, require: Require, report: Report, confidence: float) -> Judgement:
    """Return what the limits decide; what was found on the examples that were searched does not count then."""
    demand, cell = read_demand(require), name_cell(finding)
    found = judge_limits(seen, demand, confidence)
    badness = math.inf if found.observed is None else demand.compute_excess(found.observed)
    bound = (
        f"at least {show_number(demand.threshold)} is required"
        if demand.from_below
        else f"the limit is {show_number(demand.threshold)}"
    )
    message = f"the worst corruption found of {cell} gives {found.message}; {bound}."
    doubt = find_doubt(finding, report)
    if found.decision == "holds" and doubt is not None:
        return _judge(finding, "undecided", found.observed, badness, f"the search on {cell} is incomplete: {doubt}")
    return _judge(finding, found.decision, found.observed, badness, message)


def find_doubt(finding: Finding, report: Report) -> str | None:
    """Return why the finding cannot speak for its cell, although nothing above a limit was found in it."""
    examples = report.subject.data.examples
    if finding.measured.examples < examples and not report.subject.data.sampled:
        return f"it was measured on {finding.measured.examples} of {examples} examples. Audit again."
    if finding.stop_reason == "non_finite":
        return "the search stopped at a non-finite value and none is reported. Audit again."
    if finding.stop_reason == "deadline":
        return "it was cut off at the deadline. Audit again with more time."
    if finding.stop_reason == "zero_gradient" and (finding.random is None or finding.random.trials == 0):
        return (
            "its gradient is zero, so there was no direction to search, and no random trial was made. Set search.random_trials."
        )
    return None


def _judge(finding: Finding, state: State, observed: float | None, badness: float, message: str) -> Judgement:
    return Judgement(state, frozenset({finding.scope.kind}), finding.scope.name, finding.id, observed, badness, message)
