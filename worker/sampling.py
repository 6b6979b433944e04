"""Sampled data: corruptions measured on examples that the search did not choose, with limits for all of the data."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from schemas.report import Clean, Finding, Measured, MeasuredMetric, NonFinite
from schemas.request import AuditRequest
from worker.beyond import show_interval
from worker.context import AuditContext
from worker.engine.population import Figure, Population
from worker.engine.sampled import Plan, Reading, read_figures
from worker.engine.scopes import Layout
from worker.engine.search import CellResult
from worker.engine.statistics.interval import Threshold
from worker.engine.statistics.precision import Answer, Target
from worker.engine.statistics.sequence import compute_mean
from worker.targets import PERPLEXITY, Targets

MOST_NATS = 700.0
"""Above it the perplexity is no float64."""


class SampleMeter:
    """Measures on the population; without one, findings and clean figures stay as the search measured them."""

    def __init__(self, context: AuditContext) -> None:
        self._clean, self._population = context.clean, context.population
        self._targets = Targets(context.request)

    def measure(self, layout: Layout, result: CellResult, finding: Finding) -> Finding:
        """Return the finding with what its worst corruptions do to examples that the search did not choose."""
        population = self._population
        if population is None:
            return finding
        whats: dict[int, list[str]] = {}
        for what, worst in result.worst.items():
            whats.setdefault(id(worst), []).append(what)
        readings: dict[str, Reading] = {}
        for names in whats.values():
            asked = {figure: self._targets.find(figure) for what in names for figure in list_figures(what)}
            parameters = layout.apply(result.worst[names[0]].corruption)
            readings |= dict.fromkeys(names, read_figures(population, parameters, asked, self._targets.plan()))
        measured = _fill_in(finding.measured, readings, population)
        return finding.model_copy(
            update={"measured": measured, "first_order": finding.first_order.model_copy(update={"kind": "estimate"})}
        )

    def describe_clean(self) -> Clean:
        """Return what the clean model does to the examples that the findings were measured on, or to more."""
        clean, population = self._clean, self._population
        if population is None:
            return Clean(loss=clean.loss, metrics=clean.metrics)
        figures = {what: Figure(what, is_value=True) for what in ("loss", *clean.metrics)}
        asked = {figure: self._targets.find_clean(figure) for figure in figures.values()}
        answers = read_figures(population, {}, asked, self._targets.plan(population.drawn)).answers
        shown = {what: show_answer(figure, answers[figure]) for what, figure in figures.items()}
        return Clean(
            loss=shown["loss"].estimate,
            metrics={name: shown[name].estimate for name in clean.metrics},
            loss_interval=show_interval(shown["loss"].interval),
            metric_intervals={name: show_interval(shown[name].interval) for name in clean.metrics},
        )


class PointMeter:
    """Measures a breaking point's corruptions on the population until they are clear of its limit.

    looks: how many epsilons are tried at most; the limits hold for all of them together.
    """

    def __init__(self, request: AuditRequest, population: Population, looks: int) -> None:
        plan = Targets(request).plan()
        self._population, self._plan = population, replace(plan, confidence=1 - (1 - plan.confidence) / looks)

    def measure(self, parameters: Mapping[str, Tensor], what: str, limit: float) -> Answer | None:
        """Return the damage to the loss or to a metric; None where it is not finite."""
        figure = list_figures(what)[0]
        target = Target() if what == PERPLEXITY else Target(thresholds=(Threshold(limit),))
        answer = read_figures(self._population, parameters, {figure: target}, self._plan).answers.get(figure)
        if answer is None:
            return None
        shown = show_answer(figure, answer)
        return _compare_perplexity(shown, self._population) if what == PERPLEXITY else shown


def list_figures(what: str) -> list[Figure]:
    """Return what is measured of the corruption that is worst for the loss or for a metric.

    A rise of the perplexity is no mean over examples: it has limits only when the data is used up, and so it is not drawn for.
    """
    return [Figure(what, is_value=is_value) for is_value in {"loss": (False,), PERPLEXITY: (True,)}.get(what, (False, True))]


def show_answer(figure: Figure, answer: Answer) -> Answer:
    """Return a mean as what it stands for: a share within its range, or the perplexity of a loss."""
    interval = answer.interval
    estimate, lower, upper = (_show_mean(figure, mean) for mean in (answer.estimate, interval.lower, interval.upper))
    return Answer(estimate, replace(interval, lower=lower, upper=upper))


def _show_mean(figure: Figure, mean: float) -> float:
    if figure.what == PERPLEXITY:
        return _compute_perplexity(mean)
    return min(max(mean, 0.0 if figure.is_value else -1.0), 1.0) if figure.is_count else mean


def _compute_perplexity(nats: float) -> float:
    return math.exp(min(nats, MOST_NATS)) if nats < math.inf else math.inf


def _fill_in(measured: Measured, readings: Mapping[str, Reading], population: Population) -> Measured:
    """Return the section with the sampled figures; what the search found to be non-finite stays so."""
    broken = max(reading.non_finite for reading in readings.values())
    non_finite = measured.non_finite or (NonFinite(examples=broken) if broken else None)
    answer = None if non_finite is not None else readings["loss"].answers.get(Figure("loss"))
    sections: dict[str, Any] = {
        "loss_change": None if answer is None else answer.estimate,
        "interval": None if answer is None else show_interval(answer.interval),
        "metrics": {name: _fill_metric(name, metric, readings[name], population) for name, metric in measured.metrics.items()},
        "examples": readings["loss"].examples,
        "non_finite": non_finite,
    }
    return measured.model_copy(update=sections)


def _fill_metric(name: str, metric: MeasuredMetric, reading: Reading, population: Population) -> MeasuredMetric:
    shown = {figure.is_value: show_answer(figure, answer) for figure, answer in reading.answers.items() if figure.what == name}
    if name == PERPLEXITY and shown:
        shown[False] = _compare_perplexity(shown[True], population)
    sections: dict[str, Any] = {
        "value": shown[True].estimate if shown else None,
        "drop": shown[False].estimate if shown else None,
        "value_interval": show_interval(shown[True].interval) if shown else None,
        "interval": show_interval(shown[False].interval) if shown else None,
    }
    return metric.model_copy(update=sections)


def _compare_perplexity(corrupted: Answer, population: Population) -> Answer:
    interval = corrupted.interval
    losses = population.measure_clean(0, interval.sample).losses / population.labels_per_example
    rise = corrupted.estimate - _compute_perplexity(compute_mean(losses))
    lower, upper = (rise, rise) if interval.method == "exact" else (-math.inf, math.inf)
    return Answer(rise, replace(interval, lower=lower, upper=upper))


def measure_again(population: Population, parameters: Mapping[str, Tensor], what: str, measured: Measured) -> float | None:
    """Return the loss change, or the value of a metric, on the examples that a finding's figure is from."""
    metric = measured.metrics.get(what)
    interval = measured.interval if metric is None else metric.value_interval
    figure = Figure(what, is_value=metric is not None)
    examples = measured.examples if interval is None else interval.sample
    answer = read_figures(population, parameters, {figure: None}, Plan(0.95, examples)).answers.get(figure)
    return None if answer is None else show_answer(figure, answer).estimate
