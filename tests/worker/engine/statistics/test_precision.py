import numpy as np
import pytest

from worker.engine.statistics.interval import Decision, Interval, decide
from worker.engine.statistics.precision import Target, permute_rows, run_precision
from worker.engine.statistics.sequence import Values


class Population:
    """Values that note which rows were asked for."""

    def __init__(self, values: Values) -> None:
        self.values = values[permute_rows(len(values), seed=3)]
        self.asked: list[tuple[int, int]] = []

    def draw(self, start: int, stop: int) -> Values:
        self.asked.append((start, stop))
        return self.values[start:stop]


def build_shares(count: int, ones: int) -> Population:
    return Population((np.arange(count) < ones).astype(float))


@pytest.mark.parametrize(
    ("threshold", "decision"),
    [(0.19, "above"), (0.2, "between"), (0.25, "between"), (0.3, "below"), (0.31, "below")],
)
def test_a_mean_is_above_only_when_the_lower_limit_exceeds_the_threshold(threshold: float, decision: Decision) -> None:
    assert decide(Interval(0.2, 0.3, 0.95, "betting", 500, 80), threshold) == decision


def test_a_clear_answer_takes_few_examples_and_a_tie_takes_all() -> None:
    clear, tied = build_shares(10_000, 9_000), build_shares(500, 250)
    found = run_precision(clear.draw, 10_000, Target(threshold=0.5), bounds=(0.0, 1.0))
    assert (found.decision, found.examples) == ("above", 64)
    tie = run_precision(tied.draw, 500, Target(threshold=0.5), bounds=(0.0, 1.0))
    assert (tie.decision, tie.examples, tie.estimate) == ("below", 500, 0.5)
    assert tie.interval == Interval(0.5, 0.5, 0.95, "exact", 500, 500)


def test_rows_are_drawn_once_and_in_order() -> None:
    population = build_shares(500, 250)
    run_precision(population.draw, 500, Target(), bounds=(0.0, 1.0), batches=(1, 1.01))
    starts, stops = zip(*population.asked, strict=True)
    assert starts == (0, *stops[:-1])
    assert stops[-1] == 500
    assert sorted(permute_rows(500, 3).tolist()) == list(range(500))


@pytest.mark.parametrize("bounds", [(0.0, 20.0), None])
def test_both_limits_end_within_the_relative_error(bounds: tuple[float, float] | None) -> None:
    losses = np.random.default_rng(4).exponential(size=20_000).clip(max=20.0)
    found = run_precision(Population(losses).draw, 20_000, Target(relative_error=0.1), bounds=bounds)
    assert found.examples < 20_000
    assert found.interval.is_asymptotic == (bounds is None)
    assert abs(found.estimate - losses.mean()) <= 0.1 * found.estimate
    assert max(found.interval.upper - found.estimate, found.estimate - found.interval.lower) <= 0.1 * found.estimate
    assert found.decision is None


def test_both_targets_have_to_be_reached() -> None:
    draw, bounds = build_shares(4_000, 3_600).draw, (0.0, 1.0)
    tight = run_precision(draw, 4_000, Target(relative_error=0.02), bounds=bounds)
    both = run_precision(draw, 4_000, Target(relative_error=0.02, threshold=0.5), bounds=bounds)
    assert both.examples == tight.examples > 64
    assert run_precision(draw, 4_000, Target(), bounds=bounds).examples == 4_000


def test_the_same_order_gives_the_same_answer() -> None:
    runs = [run_precision(build_shares(900, 300).draw, 900, Target(threshold=0.3), bounds=(0.0, 1.0)) for _ in range(2)]
    assert runs[0] == runs[1]


def test_wrong_draws_are_refused() -> None:
    for draw, batches in (
        (lambda _, __: [0.5], (64, 1.5)),
        (lambda a, b: [0.5] * (b - a), (0, 1.5)),
        (lambda _, __: [0.5], (1, 1.0)),
    ):
        with pytest.raises(ValueError, match="draw"):
            run_precision(draw, 100, Target(), bounds=(0.0, 1.0), batches=batches)
