"""What a report must be before its findings are judged: a good clean model, enough search, data and coverage.

A clean model that is too bad fails, because nothing can drop from chance level; every other unmet requirement
makes the verdict inconclusive, because the report does not answer the policy's question.
"""

from collections.abc import Iterator
from typing import Any

from gate.beyond import Seen, judge_limits
from gate.damage import Demand
from gate.wording import show_pair
from schemas.bounds import Interval
from schemas.policy import RequiredClean, RequiredSearch, Requires
from schemas.problem import clean_text
from schemas.report import Report
from schemas.verdict import Outcome, RequirementVerdict

METHOD_RANK = {"first_order": 0, "reapplied": 1, "ascent": 1, "second_order": 1, "auto": 2}
"""Search methods from the weakest to the strongest."""


def judge_requirements(requires: Requires, report: Report, confidence: float) -> tuple[RequirementVerdict, ...]:
    """Return one entry for every requirement that the policy states."""
    return (
        *_judge_clean(requires.clean or RequiredClean(), report, confidence),
        *_judge_search(requires.search or RequiredSearch(), read_search(report)),
        *_judge_scale(requires, report),
    )


def read_search(report: Report) -> dict[str, Any]:
    """Return the search that the report was asked for; empty when the echo does not have it."""
    search = report.request.get("search")
    return search if isinstance(search, dict) else {}


def _judge_clean(clean: RequiredClean, report: Report, confidence: float) -> Iterator[RequirementVerdict]:
    figures = report.clean
    if clean.accuracy_at_least is not None:
        name, accuracy = "clean.accuracy_at_least", figures.metrics.get("accuracy")
        demand = Demand("accuracy", clean.accuracy_at_least, from_below=True)
        if accuracy is None:
            yield _build(name, "inconclusive", "The audit did not measure accuracy. Add it to objective.metrics and audit again.")
        else:
            yield _judge_figure(name, demand, accuracy, figures.metric_intervals.get("accuracy"), report, confidence)
    if clean.loss_at_most is not None:
        demand = Demand("loss", clean.loss_at_most, from_below=False)
        yield _judge_figure("clean.loss_at_most", demand, figures.loss, figures.loss_interval, report, confidence)


def _judge_figure(
    name: str, demand: Demand, value: float, interval: Interval | None, report: Report, confidence: float
) -> RequirementVerdict:
    """Return whether a clean figure is good enough: by its limits where the data was sampled."""
    seen, wanted = show_pair(value, demand.threshold)
    bound = f"{wanted} or more is required" if demand.from_below else f"at most {wanted} is allowed"
    if not report.subject.data.sampled:
        outcome: Outcome = "fail" if demand.is_exceeded(value) else "pass"
        return _build(name, outcome, f"The uncorrupted model's {demand.figure} is {seen}; {bound}.")
    sample = 0 if interval is None else interval.sample
    drawn = Seen(value, interval, f"on {sample} of {report.subject.data.examples} examples", "on all of them")
    found = judge_limits(drawn, demand, confidence)
    outcomes: dict[str, Outcome] = {"holds": "pass", "exceeded": "fail"}
    return _build(name, outcomes.get(found.decision, "inconclusive"), f"The uncorrupted model has {found.message}; {bound}.")


def _judge_search(wanted: RequiredSearch, search: dict[str, Any]) -> Iterator[RequirementVerdict]:
    if wanted.method is not None:
        method = str(search.get("method"))
        met = METHOD_RANK.get(method, -1) >= METHOD_RANK[wanted.method]
        message = f"The search method was {clean_text(method, 64)}; {wanted.method} or a stronger one is required."
        yield _build("search.method", _met(met=met), message)
    if wanted.budget_passes_at_least is not None:
        budget = search.get("budget_passes")
        met = isinstance(budget, int) and budget >= wanted.budget_passes_at_least
        message = f"The budget was {budget} passes per cell; {wanted.budget_passes_at_least} or more are required."
        yield _build("search.budget_passes_at_least", _met(met=met), message)


def _judge_scale(requires: Requires, report: Report) -> Iterator[RequirementVerdict]:
    data, coverage = report.subject.data, report.coverage
    if requires.examples_at_least is not None:
        message = f"The audit is about {data.examples} examples; {requires.examples_at_least} or more are required."
        yield _build("examples_at_least", _met(met=data.examples >= requires.examples_at_least), message)
    if requires.weights_audited_at_least is not None:
        share = coverage.weights_audited / coverage.weights_total if coverage.weights_total else 0.0
        seen, wanted = show_pair(share, requires.weights_audited_at_least)
        message = f"The audited share of the weights is {seen}; {wanted} or more is required."
        yield _build("weights_audited_at_least", _met(met=share >= requires.weights_audited_at_least), message)
    if requires.data_sha256 is not None:
        message = f"The audit measured data {clean_text(data.sha256, 64)}; the policy is about data {requires.data_sha256}."
        yield _build("data_sha256", _met(met=data.sha256 == requires.data_sha256), message)


def _met(*, met: bool) -> Outcome:
    return "pass" if met else "inconclusive"


def _build(name: str, outcome: Outcome, message: str) -> RequirementVerdict:
    return RequirementVerdict(name=name, met=outcome == "pass", outcome=outcome, message=message)
