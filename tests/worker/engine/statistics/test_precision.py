import numpy as np
import pytest

from worker.engine.statistics.interval import Interval, Method, Threshold
from worker.engine.statistics.precision import Answer, Question, Target, permute_rows, run_precision
from worker.engine.statistics.sequence import Values

SHARE = (0.0, 1.0)


class Population:
    """Values that note which rows were asked for."""

    def __init__(self, *values: Values) -> None:
        self.values = [column[permute_rows(len(column), seed=3)] for column in values]
        self.asked: list[tuple[int, int]] = []

    def draw(self, start: int, stop: int) -> list[Values]:
        self.asked.append((start, stop))
        return [column[start:stop] for column in self.values]


def build_shares(count: int, *ones: int) -> Population:
    return Population(*((np.arange(count) < number).astype(float) for number in ones))


def ask(population: Population, target: Target, bounds: tuple[float, float] | None = SHARE) -> Answer:
    [answer] = run_precision(population.draw, len(population.values[0]), [Question(bounds, target)])
    return answer


@pytest.mark.parametrize(
    ("threshold", "method", "clear"),
    [
        (Threshold(0.19), "betting", True),
        (Threshold(0.2), "betting", False),
        (Threshold(0.25), "betting", False),
        (Threshold(0.3), "betting", True),
        (Threshold(0.2, from_below=True), "betting", True),
        (Threshold(0.3, from_below=True), "betting", False),
        (Threshold(0.31, from_below=True), "betting", True),
        (Threshold(0.19), "asymptotic_sequence", True),
        (Threshold(0.3), "asymptotic_sequence", False),
        (Threshold(0.2, from_below=True), "asymptotic_sequence", False),
    ],
)
def test_limits_are_clear_of_a_threshold_when_the_gate_would_decide(threshold: Threshold, method: Method, clear: bool) -> None:
    assert threshold.is_clear(Interval(0.2, 0.3, 0.95, method, 500, 80)) == clear


def test_a_clear_answer_takes_few_examples_and_a_tie_takes_all() -> None:
    target = Target(thresholds=(Threshold(0.5),))
    found = ask(build_shares(10_000, 9_000), target)
    assert (found.interval.lower > 0.5, found.interval.sample) == (True, 64)
    tie = ask(build_shares(500, 250), target)
    assert tie.estimate == 0.5
    assert tie.interval == Interval(0.5, 0.5, 0.95, "exact", 500, 500)


def test_every_threshold_has_to_be_cleared() -> None:
    near, far = Threshold(0.86), Threshold(0.5)
    sizes = [
        ask(build_shares(10_000, 9_000), Target(thresholds=given)).interval.sample for given in ((far,), (near,), (far, near))
    ]
    assert sizes[0] < sizes[1] == sizes[2]


def test_rows_are_drawn_once_and_in_order() -> None:
    population = build_shares(500, 250)
    run_precision(population.draw, 500, [Question(SHARE)], batches=(1, 1.01))
    starts, stops = zip(*population.asked, strict=True)
    assert starts == (0, *stops[:-1])
    assert stops[-1] == 500
    assert sorted(permute_rows(500, 3).tolist()) == list(range(500))


@pytest.mark.parametrize("bounds", [(0.0, 20.0), None])
def test_both_limits_end_within_the_relative_error(bounds: tuple[float, float] | None) -> None:
    losses = np.random.default_rng(4).exponential(size=20_000).clip(max=20.0)
    found = ask(Population(losses), Target(relative_error=0.1), bounds)
    assert found.interval.sample < 20_000
    assert found.interval.is_asymptotic == (bounds is None)
    assert abs(found.estimate - losses.mean()) <= 0.1 * found.estimate
    assert max(found.interval.upper - found.estimate, found.estimate - found.interval.lower) <= 0.1 * found.estimate


def test_both_targets_have_to_be_reached() -> None:
    population, clear = build_shares(4_000, 3_600), (Threshold(0.5),)
    tight = ask(population, Target(relative_error=0.02)).interval.sample
    assert ask(population, Target(0.02, clear)).interval.sample == tight > 64
    assert ask(population, Target()).interval.sample == 4_000


def test_the_slowest_question_decides_and_one_without_a_target_takes_what_there_is() -> None:
    population, target = build_shares(4_000, 3_600, 2_200), Target(thresholds=(Threshold(0.5),))
    fast, slow, idle = Question(SHARE, target), Question(SHARE, target), Question(SHARE, None)
    both = run_precision(population.draw, 4_000, [fast, slow])
    assert both[0].interval.sample == both[1].interval.sample > 64
    assert both[1].interval.lower > 0.5
    assert [answer.interval.sample for answer in run_precision(population.draw, 4_000, [fast, idle])] == [64, 64]


def test_the_same_order_gives_the_same_answer() -> None:
    runs = [ask(build_shares(900, 300), Target(thresholds=(Threshold(0.3),))) for _ in range(2)]
    assert runs[0] == runs[1]


def test_wrong_draws_are_refused() -> None:
    for draw, batches in (
        (lambda _, __: [[0.5]], (64, 1.5)),
        (lambda a, b: [[0.5] * (b - a)], (0, 1.5)),
        (lambda _, __: [[0.5]], (1, 1.0)),
    ):
        with pytest.raises(ValueError, match="draw"):
            run_precision(draw, 100, [Question(SHARE)], batches=batches)
