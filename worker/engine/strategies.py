"""Strategies: where a search goes next, given what it measured; method section 3.

A strategy is a generator. It yields the corruption to measure and is sent the outcome there and the gradient of
the loss at w + a, or None when the budget allows no further step; it returns its stop reason. Whoever runs it
(search.py) applies, measures, keeps the worst, and enforces the budget.
"""

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.engine.corruption import CorruptionSet, compute_closed_form, project_corruption
from worker.engine.tally import Outcome

SMALLEST_GAIN = 1e-3
PATIENCE = 3
"""Re-applying has converged when this many steps in a row raised the loss change by less than SMALLEST_GAIN of it."""
ASCENT_STEPS = 25
FIRST_STEP = 2.0
"""The first ascent step has this share of epsilon; with small ones the first support never changes when n < k."""


@dataclass(frozen=True)
class Move:
    """A corruption [k] to measure, and the method that proposes it."""

    corruption: Tensor
    method: str
    wants_gradient: bool = True


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
    """What a strategy works on: the set, the clean loss, the passes, and random points of the set to start from."""

    corruption_set: CorruptionSet
    clean_loss: float
    purse: Purse
    draw: Callable[[int], Tensor]


def measure_once(start: Tensor, problem: SearchProblem) -> Strategy:
    """Measure the one-step corruption and stop."""
    yield Move(start, "first_order", wants_gradient=False)
    return "single_step"


def reapply(start: Tensor, problem: SearchProblem, most_steps: float = math.inf) -> Strategy:
    """a_{j+1} = argmax over S of <a, grad L(w + a_j)>: no step size, always feasible, monotone where L is convex."""
    corruption, best, stalled, step = start, -math.inf, 0, 0
    while step <= most_steps:
        outcome, gradient = yield Move(corruption, "reapplied" if step else "first_order")
        if gradient is None:
            return "budget"
        change = math.inf if outcome.loss is None else outcome.loss - problem.clean_loss
        stalled = 0 if change > best + SMALLEST_GAIN * abs(best) else stalled + 1
        following = compute_closed_form(gradient, problem.corruption_set).corruption
        if stalled >= PATIENCE or torch.equal(following, corruption) or not following.any():
            return "converged"
        corruption, best, step = following, max(best, change), step + 1
    return "converged"


def ascend(start: Tensor, problem: SearchProblem, steps: int) -> Strategy:
    """Projected ascent: a_{j+1} = Pi_S(a_j + u_j), u_j the closed form of norm alpha_j = 2 epsilon (1 - j / K) over all k."""
    corruption, chosen = start, problem.corruption_set
    for step in range(steps):
        _, gradient = yield Move(corruption, "ascent")
        if gradient is None:
            return "budget"
        length = FIRST_STEP * chosen.epsilon * (1 - step / steps)
        move = compute_closed_form(gradient, CorruptionSet(chosen.norm, length)).corruption
        if not move.any():
            return "converged"
        corruption = project_corruption(corruption + move, chosen)
    yield Move(corruption, "ascent", wants_gradient=False)
    return "converged"


def combine(start: Tensor, problem: SearchProblem) -> Strategy:
    """Re-apply with a third of the budget, ascend from the same start, then from random points to the end."""
    # Each of the two wins on some networks, and the large early steps of the ascent leave the first support.
    purse = problem.purse
    yield from reapply(start, problem, purse.steps_left / 3)
    reason, restart = "budget", 0
    while purse.steps_left > 1:
        begin = problem.draw(restart) if restart else start
        reason = yield from ascend(begin, problem, min(purse.steps_left, ASCENT_STEPS))
        restart += 1
    if purse.left:
        reason = "budget"
    return reason


def ascend_all(start: Tensor, problem: SearchProblem) -> Strategy:
    """Ascend from the one-step corruption, with as many steps as the budget allows."""
    yield Move(start, "first_order", wants_gradient=False)
    return (yield from ascend(start, problem, max(1, problem.purse.steps_left)))


STRATEGIES: dict[str, Callable[[Tensor, SearchProblem], Strategy]] = {
    "first_order": measure_once,
    "reapplied": reapply,
    "ascent": ascend_all,
    "auto": combine,
}
