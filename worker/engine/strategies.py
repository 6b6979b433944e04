"""Strategies: where a search goes next, given what it measured; method section 3.

A strategy is a generator. It yields the corruption to measure and is sent the outcome there and the gradient that it
asked for at w + a, or None when the budget allows no further step; it returns its stop reason. Whoever runs it
(search.py) applies, measures, keeps the worst, and enforces the budget.
"""

import itertools
import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from worker.engine.corruption import Corruption, add_corruptions, is_same
from worker.engine.passes import Passes
from worker.engine.regions import Region
from worker.engine.tally import Outcome

SMALLEST_GAIN = 1e-3
PATIENCE = 3
"""Re-applying has converged when this many steps in a row raised the loss change by less than SMALLEST_GAIN of it."""
ASCENT_STEPS = 25
FIRST_STEP = 2.0
"""The first ascent step has this share of epsilon; with small ones the first support never changes when n < k."""
FEW = 8
"""Up to this many corrupted weights, single exchanges are tried; and as many newcomers for each."""

Surrogate = Literal["loss", "margin"]


@dataclass(frozen=True)
class Move:
    """A corruption [k] to measure, the method that proposes it, and of what the gradient is wanted there."""

    corruption: Corruption
    method: str
    gradient_of: Surrogate | None = "loss"


@dataclass
class Purse:
    """Passes over the data that a cell may spend, and has."""

    budget: int
    forward: int = 0
    backward: int = 0

    @property
    def left(self) -> int:
        """Passes not yet spent."""
        return self.budget - self.forward - self.backward

    @property
    def steps_left(self) -> int:
        """Steps, of a forward and a backward pass each, that leave one pass to measure where they lead."""
        return max(0, (self.left - 1) // 2)


Strategy = Generator[Move, tuple[Outcome, Tensor | None], str]


@dataclass(frozen=True)
class SearchProblem:
    """What a strategy works on.

    draw: restart number -> a random corruption on the region's edge. find_best: the worst corruption found so far.
    has_margin: whether the objective has classes, so that the margin can stand in for the accuracy. known: the worst corruption
    of the smaller cells. is_flat: the gradient at w is zero. solve_second_order: passes it may spend -> the maximiser of the
    second-order model; None where the set has none (only p = 2, n = k do) or the passes do not suffice.
    """

    region: Region
    clean_loss: float
    purse: Purse
    draw: Callable[[int], Corruption]
    find_best: Callable[[], Corruption]
    has_margin: bool = False
    known: Corruption | None = None
    is_flat: bool = False
    solve_second_order: Callable[[int], Tensor | None] = lambda passes: None  # noqa: ARG005 - what the default ignores

    @property
    def first(self) -> str:
        """What proposed the start: one step, or chance where the gradient is zero."""
        return "random" if self.is_flat else "first_order"


def measure_once(start: Corruption, problem: SearchProblem) -> Strategy:
    """Measure the one-step corruption and stop."""
    yield Move(start, problem.first, None)
    return "single_step"


def reapply(start: Corruption, problem: SearchProblem, most_steps: float = math.inf, first: str | None = None) -> Strategy:
    """a_{j+1} = argmax over S of <a, grad L(w + a_j)>: no step size, always feasible, monotone where L is convex."""
    corruption, best, stalled, step = start, -math.inf, 0, 0
    while step <= most_steps:
        outcome, gradient = yield Move(corruption, "reapplied" if step else first or problem.first)
        if gradient is None:
            return "budget"
        change = math.inf if outcome.loss is None else outcome.loss - problem.clean_loss
        stalled = 0 if change > best + SMALLEST_GAIN * abs(best) else stalled + 1
        following, predicted = problem.region.maximise(gradient)
        if stalled >= PATIENCE or not predicted or is_same(following, corruption):
            return "converged"
        corruption, best, step = following, max(best, change), step + 1
        del gradient, following  # what a step used may be large, and the next one needs its place
    return "converged"


def ascend(start: Corruption, problem: SearchProblem, steps: int, of: Surrogate = "loss") -> Strategy:
    """Projected ascent: a_{j+1} = Pi_S(a_j + u_j), u_j the closed form of norm alpha_j = 2 epsilon (1 - j / K) over all k."""
    corruption, region = start, problem.region
    for step in range(steps):
        _, gradient = yield Move(corruption, "ascent", of)
        if gradient is None:
            return "budget"
        move, predicted = region.step(gradient, FIRST_STEP * (1 - step / steps))
        if not predicted:
            return "converged"
        corruption = region.project(add_corruptions(corruption, move))
        del gradient, move
    yield Move(corruption, "ascent", None)
    return "converged"


def exchange(problem: SearchProblem, passes: int) -> Strategy:
    """Swap one of a few corrupted weights for another while that helps: the least useful first, the steepest newcomer first."""
    spent_before = problem.purse.left
    while spent_before - problem.purse.left < passes:
        current = problem.find_best()
        outcome, gradient = yield Move(current, "exchange")
        if gradient is None or outcome.loss is None:
            return "budget"
        improved = False
        for mask in _list_exchanges(current[:], problem.region.weigh(gradient)):
            if spent_before - problem.purse.left >= passes:
                return "budget"
            tried, _ = yield Move(problem.region.maximise(gradient * mask).corruption, "exchange", None)
            if tried.loss is not None and tried.loss > outcome.loss:
                improved = True
                break
        if not improved:
            return "converged"
    return "budget"


def _list_exchanges(current: Tensor, steepness: Tensor) -> Iterator[Tensor]:
    inside = (current != 0).nonzero().flatten()
    outside = torch.where(current == 0, steepness, torch.zeros_like(steepness)).topk(min(FEW, current.numel())).indices
    for leaving in inside[steepness[inside].argsort()].tolist():
        for entering in outside.tolist():
            if current[entering] == 0:
                mask = current != 0
                mask[leaving], mask[entering] = False, True
                yield mask


def combine(start: Corruption, problem: SearchProblem) -> Strategy:
    """Re-apply, ascend, ascend the margin, exchange; then start from the smaller cells and at random."""
    # Each wins on some networks, and the large early steps of the ascent leave the first support.
    purse = problem.purse
    share = purse.steps_left / 4
    curved = problem.solve_second_order(purse.left // 2) if problem.is_flat else None
    yield from reapply(start, problem, share) if curved is None else reapply(curved, problem, share, "second_order")
    yield from ascend(start, problem, min(math.ceil(share), ASCENT_STEPS, max(1, purse.steps_left)))
    if problem.has_margin and purse.steps_left > share > 1:
        yield from ascend(start, problem, min(math.ceil(share), ASCENT_STEPS), "margin")
    if problem.region.corrupted <= FEW < problem.region.movable and share > 1:
        yield from exchange(problem, math.ceil(share))
    if problem.known is not None and purse.steps_left > 1:
        yield from ascend(problem.known, problem, min(math.ceil(share), ASCENT_STEPS))
    for restart in itertools.count():
        if purse.steps_left <= 1:
            break
        begin = problem.draw(restart)
        if restart % 2:
            yield from ascend(begin, problem, min(purse.steps_left, ASCENT_STEPS))
        else:
            yield from reapply(begin, problem, ASCENT_STEPS, "random")
    return "budget"


def solve_second_order(start: Corruption, problem: SearchProblem) -> Strategy:
    """Measure one step, then the maximiser of a^T g + a^T H a / 2 over the ball (p = 2, n = k), then re-apply from there."""
    if not problem.is_flat:
        yield Move(start, "first_order", None)
    corruption = problem.solve_second_order(problem.purse.left // 2)
    if corruption is None:
        return (yield from reapply(start, problem))
    return (yield from reapply(corruption, problem, first="second_order"))


def ascend_all(start: Corruption, problem: SearchProblem) -> Strategy:
    """Ascend from the one-step corruption, with as many steps as the budget allows."""
    yield Move(start, problem.first, None)
    return (yield from ascend(start, problem, max(1, problem.purse.steps_left)))


STRATEGIES: dict[str, Callable[[Corruption, SearchProblem], Strategy]] = {
    "first_order": measure_once,
    "reapplied": reapply,
    "ascent": ascend_all,
    "second_order": solve_second_order,
    "auto": combine,
}


def count_most_passes(method: str, budget: int) -> Passes:
    """Return what a search spends at most: steps of a forward and a backward pass, forward passes with the rest.

    >>> count_most_passes("auto", 64), count_most_passes("first_order", 64)
    (Passes(forward=33, backward=31), Passes(forward=1, backward=0))
    """
    steps = Purse(budget).steps_left
    return Passes(1, 0) if STRATEGIES[method] is measure_once else Passes(budget - steps, steps)
