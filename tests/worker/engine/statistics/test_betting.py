import itertools
import math

import numpy as np
import pytest
from scipy import stats

from worker.engine.statistics.betting import RESOLUTION, BettingSequence


@pytest.mark.parametrize("confidence", [0.6, 0.9])
def test_no_population_of_eight_is_missed_more_often_than_stated_over_all_orders_and_looks(confidence: float) -> None:
    orders = np.zeros(9)
    missed = np.zeros((2, 9))
    for order in itertools.product([0.0, 1.0], repeat=8):
        sequence, ones, wrong = BettingSequence(8, confidence), int(sum(order)), [False, False]
        for value in order:
            sequence.update([value])
            lower, upper = sequence.limits()
            wrong = [wrong[0] or lower > ones / 8, wrong[1] or upper < ones / 8]
        orders[ones] += 1
        missed[:, ones] += wrong
    assert (missed <= (1 - confidence) * orders + 1e-9).all()
    assert missed.sum() > 0  # else the limits are only the certain ones and this test says nothing


@pytest.mark.parametrize("population", [400, None])
def test_whoever_stops_as_soon_as_a_limit_looks_wrong_rarely_finds_one(population: int | None) -> None:
    values = np.repeat([-1.0, 0.0, 1.0], [8, 290, 102])
    truth, generator, runs, missed = values.mean(), np.random.default_rng(6), 250, np.zeros(2)
    for _ in range(runs):
        order = generator.choice(values, 400, replace=population is None)
        sequence, wrong = BettingSequence(population, low=-1), np.zeros(2, dtype=bool)
        for part in np.split(order, [20, 40, 80, 120, 180, 270, 360])[:-1]:
            sequence.update(part)
            lower, upper = sequence.limits()
            wrong |= lower > truth, upper < truth
        missed += wrong
    assert missed.max() <= stats.binom.ppf(0.999, runs, 0.05)


def test_limits_narrow_at_every_look_and_meet_when_the_population_is_used_up() -> None:
    values = np.random.default_rng(7).beta(2, 5, 300)
    sequence, before = BettingSequence(300), (0.0, 1.0)
    for part in np.split(values, 30):
        sequence.update(part)
        lower, upper = sequence.limits()
        assert before[0] <= lower <= values.mean() + 1e-12
        assert before[1] >= upper >= values.mean() - 1e-12
        before = lower, upper
    assert before == (math.fsum(values) / 300,) * 2
    assert sequence.interval().method == "exact"


def test_looking_more_often_costs_nothing() -> None:
    values = (np.random.default_rng(8).random(200) < 0.9).astype(float)
    once, often = BettingSequence(1000), BettingSequence(1000)
    once.update(values)
    for value in values:
        often.update([value])
    assert often.limits() == pytest.approx(once.limits(), abs=4 * RESOLUTION)


def test_limits_move_with_the_scale_and_the_sign() -> None:
    values = np.random.default_rng(9).random(150)
    plain, mapped = BettingSequence(500), BettingSequence(500, low=-1.0, high=3.0)
    plain.update(values)
    mapped.update(3.0 - 4.0 * values)
    lower, upper = plain.limits()
    assert mapped.limits() == pytest.approx((3 - 4 * upper, 3 - 4 * lower), abs=1e-5)


def test_the_capital_of_the_first_bets_is_that_of_a_slow_count() -> None:
    # All ones: before value i the variance is (1/4 + sum of (1/(j+2))^2 / 4 over j = 1..i-1) / i, and the mean stays m.
    # Ten gamblers for the horizons 32, 128, ... each have to reach 10 / alpha = 200.
    squares, capitals = 0.25, [1.0] * 10
    sequence = BettingSequence(None)
    sequence.update(np.ones(40))
    m = sequence.limits()[0]
    for i in range(1, 41):
        for j in range(10):
            bet = min(math.sqrt(2 * math.log(200) / (squares / i * 32 * 4**j)), 0.75 / m)
            capitals[j] *= 1 + bet * (1 - m)
        squares += (1 - (i + 0.5) / (i + 1)) ** 2
    assert max(capitals) == pytest.approx(200, rel=1e-3)
    assert sequence.limits()[1] == 1.0


def test_an_order_that_is_not_random_gives_no_impossible_limits() -> None:
    sequence = BettingSequence(400)
    for part in np.split(np.repeat([1.0, 0.0], 200), 20):
        sequence.update(part)
        lower, upper = sequence.limits()
        assert 0 <= lower <= upper <= 1
    assert sequence.limits() == (0.5, 0.5)


@pytest.mark.parametrize("values", [[1.5], [-0.1], [math.nan], [math.inf], [0.5] * 4])
def test_impossible_values_are_refused_and_change_nothing(values: list[float]) -> None:
    sequence = BettingSequence(3)
    sequence.update([0.5])
    before = sequence.limits()
    with pytest.raises(ValueError, match="values"):
        sequence.update(values)
    assert sequence.limits() == before


def test_impossible_settings_are_refused() -> None:
    for confidence, low, high in ((1.0, 0.0, 1.0), (0.4, 0.0, 1.0), (0.9, 1.0, 1.0), (0.9, 0.0, math.inf)):
        with pytest.raises(ValueError, match=r"confidence|low"):
            BettingSequence(10, confidence, low, high)


def test_before_the_first_value_only_the_range_is_known() -> None:
    for population in (None, 10):
        sequence = BettingSequence(population, low=-1.0)
        assert sequence.limits() == (-1.0, 1.0)
        assert math.isnan(sequence.estimate())
        sequence.update([])
        assert sequence.limits() == (-1.0, 1.0)
