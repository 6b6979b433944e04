"""Figures of one corruption from a sample of D, with limits for D; method section 8."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from worker.engine.population import Figure, Population
from worker.engine.statistics.fixed import compute_limits
from worker.engine.statistics.precision import Answer, Question, Target, run_precision
from worker.engine.statistics.sequence import Values, compute_mean

GROWTH = 1.5
"""Precision mode looks again when it has drawn this many times as many examples."""


@dataclass(frozen=True)
class Plan:
    """How many examples to draw: all of the sample, or with a `first_look` as many as the questions need, up to all of D."""

    confidence: float
    first_look: int | None = None


@dataclass(frozen=True)
class Reading:
    """Means over D as far as the drawn examples tell. non_finite: drawn examples with a non-finite output or loss.

    A figure of the loss is missing where an example has no finite one: then D has none either.
    """

    answers: dict[Figure, Answer]
    examples: int
    non_finite: int


class _NonFiniteDraw(Exception):
    def __init__(self, examples: int, non_finite: int) -> None:
        self.reading = Reading({}, examples, non_finite)


def read_figures(
    population: Population, parameters: Mapping[str, Tensor], asked: Mapping[Figure, Target | None], plan: Plan
) -> Reading:
    """Draw examples and return the figures; with no parameters those of the clean model.

    Kind: estimates with confidence limits; exact when D is used up. Source: method section 8.

    Args:
        population: D in the order in which it is drawn.
        parameters: the corrupted weights, by name.
        asked: the figures, each with what ends the drawing (None: it takes what the others need).
        plan: how much to draw.

    Returns:
        The figures; all share the examples drawn.
    """
    broken = 0

    def draw(start: int, stop: int) -> list[Values]:
        nonlocal broken
        clean = population.measure_clean(start, stop)
        sums = population.measure(parameters, start, stop) if parameters else clean
        broken += sums.non_finite
        if broken and not all(figure.is_count for figure in asked):
            raise _NonFiniteDraw(stop, broken)
        return [figure.compute_values(population, clean, sums) for figure in asked]

    try:
        answers = _draw_sample(population, draw, asked, plan)
    except _NonFiniteDraw as end:
        counts = {figure: target for figure, target in asked.items() if figure.is_count}
        if not counts:
            return end.reading
        reading = read_figures(population, parameters, counts, plan)
        return replace(reading, non_finite=max(reading.non_finite, end.reading.non_finite))
    return Reading(dict(zip(asked, answers, strict=True)), answers[0].interval.sample, broken)


def _draw_sample(
    population: Population, draw: Callable[[int, int], list[Values]], asked: Mapping[Figure, Target | None], plan: Plan
) -> list[Answer]:
    bounds = [figure.find_bounds(population) for figure in asked]
    if plan.first_look is None:
        values = draw(0, population.sample)
        limits = (
            compute_limits(column, bound, len(population), plan.confidence) for column, bound in zip(values, bounds, strict=True)
        )
        return [Answer(compute_mean(column), limit) for column, limit in zip(values, limits, strict=True)]
    questions = [Question(bound, target) for bound, target in zip(bounds, asked.values(), strict=True)]
    return run_precision(draw, len(population), questions, plan.confidence, (plan.first_look, GROWTH))
