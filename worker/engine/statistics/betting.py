"""Betting confidence sequences for the mean of bounded values; method section 8."""

import math

import numpy as np

from worker.engine.statistics.sequence import ConfidenceSequence, Values

LARGEST_STAKE = 0.75
"""The share of its capital that a bet may lose at most; below 1, so that the capital never reaches zero."""
FIRST_HORIZON, HORIZON_GROWTH, HORIZONS = 32, 4, 10
RESOLUTION = 1e-6
"""Limits are found to this share of the values' range, and rounded outwards."""


class BettingSequence(ConfidenceSequence):
    r"""Limits for the mean of values in [low, high].

    A gambler bets against each candidate mean m. With x scaled to [0, 1] and drawn without replacement, the next value
    has under m the mean mu_i(m) = (N m - sum_{j<i} x_j) / (N - i + 1); for independent draws it is m. So the capital
    K_t(m) = prod_{i<=t} (1 + lambda_i (x_i - mu_i(m))) is a non-negative martingale, which ever reaches 1 / alpha with
    probability at most alpha = 1 - confidence (Ville). K_t falls as m grows: the lower limit is the largest m whose
    capital has ever reached 1 / alpha. The upper limit is the same for 1 - x.

    Bets are lambda_i = sqrt(2 ln(1 / alpha) / (variance so far * V)), V the information at which they are to pay off;
    after t values it is N t / (N - t + 1), and t for independent draws. With a horizon (a sample size) there is one
    gambler; without, J of them with V = 32, 128, ... each stand for alpha / J. Memory: 72 bytes per value seen.

    Kind: confidence limits, at any sample size. Source: Waudby-Smith and Ramdas, "Estimating means of bounded random
    variables by betting", JRSS B 86 (2024): predictable plug-in bets for a fixed horizon, and sampling without
    replacement. Ours: the information, and the gamblers for many horizons.

    >>> sequence = BettingSequence(population=4)
    >>> sequence.update([1.0, 0.0, 1.0, 1.0])
    >>> sequence.limits()
    (0.75, 0.75)
    """

    method = "betting"

    def __init__(
        self, population: int | None, confidence: float = 0.95, low: float = 0.0, high: float = 1.0, horizon: int | None = None
    ) -> None:
        super().__init__(population, confidence, low, high)
        if not -math.inf < low < high < math.inf:
            message = f"low must lie below high and both be finite, not {low} and {high}"
            raise ValueError(message)
        horizons = _list_horizons(population, horizon)
        self._above, self._below = (_Gamblers(population, 1 - confidence, horizons) for _ in range(2))

    def _look(self) -> tuple[float, float]:
        span = self._high - self._low
        x = (self._values[len(self._above) :] - self._low) / span
        self._above.update(x)
        self._below.update(1 - x)
        return self._low + span * self._above.find_limit(), self._high - span * self._below.find_limit()


class _Gamblers:
    """Bet that the mean of x in [0, 1] lies above m, for every m at once."""

    def __init__(self, population: int | None, alpha: float, horizons: list[float]) -> None:
        self._population, self._goal, self._horizons = population, math.log(len(horizons) / alpha), horizons
        self._x, self._slope, self._offset, self._bet = (np.empty(0) for _ in range(4))
        # A mean of 1/2 and a variance of 1/4 count as one value seen at the start.
        self._total, self._squares, self._limit = 0.0, 0.25, 0.0

    def __len__(self) -> int:
        return len(self._x)

    def update(self, x: Values) -> None:
        """Take the next values; mu_i(m) is slope m - offset, and the bet on a value depends on earlier values only."""
        seen = len(self._x) + np.arange(len(x))
        left: Values = np.full(len(x), np.inf) if self._population is None else (self._population - seen).astype(np.float64)
        slope: Values = np.ones(len(x)) if self._population is None else self._population / left
        total = self._total + np.cumsum(x)
        squares = self._squares + np.cumsum((x - (total + 0.5) / (seen + 2)) ** 2)
        before, variance = _delay(total, self._total), _delay(squares, self._squares) / (seen + 1)
        bet = slope * np.sqrt(2 * self._goal / variance)
        if len(x):
            self._total, self._squares = float(total[-1]), float(squares[-1])
        pairs = ((self._x, x), (self._slope, slope), (self._offset, before / left), (self._bet, bet))
        self._x, self._slope, self._offset, self._bet = (np.concatenate(pair) for pair in pairs)

    def find_limit(self) -> float:
        """Return the largest m found whose capital has ever reached the goal; never less than before."""
        known = 0.0 if self._population is None else self._total / self._population
        low = max(self._limit, known)
        high = 1.0 if self._population is None else known + 1 - len(self._x) / self._population
        while high - low > RESOLUTION:
            middle = (low + high) / 2
            low, high = (middle, high) if self._is_rich(middle) else (low, middle)
            self._limit = low if low == middle else self._limit
        return self._limit

    def _is_rich(self, m: float) -> bool:
        mean = self._slope * m - self._offset
        largest, gain = LARGEST_STAKE / np.maximum(mean, 1e-300), self._x - mean
        stakes = (np.minimum(self._bet / math.sqrt(horizon), largest) for horizon in self._horizons)
        return any(np.log1p(stake * gain).cumsum().max(initial=0.0) >= self._goal for stake in stakes)


def _list_horizons(population: int | None, horizon: int | None) -> list[float]:
    """Return the amounts of information at which bets are to pay off."""
    if horizon is not None:
        used = horizon if population is None else min(horizon, population)
        return [used if population is None else used * population / (population - used + 1)]
    most = math.inf if population is None else HORIZON_GROWTH * max(FIRST_HORIZON, population)
    grown = [float(FIRST_HORIZON * HORIZON_GROWTH**step) for step in range(HORIZONS)]
    return [information for information in grown if information <= most]


def _delay(values: Values, first: float) -> Values:
    """Return the values one place later, with `first` in front."""
    return np.concatenate([[first], values[:-1]])[: len(values)]
