"""Conditions on bit flips: the worst that at most so many flips were found to do, against a limit.

Every set of flips that was applied and measured counts, random ones included. Nothing measured is never a pass: flips that make
a weight NaN or infinite are left out of the search, so a request that allows them leaves the condition undecided.
"""

import math
from collections.abc import Iterator

from gate.damage import compute_drop, read_demand
from gate.judgement import Judgement, State
from gate.wording import MAX_NAME
from schemas.policy import Require, Where
from schemas.problem import clean_text
from schemas.report import BitFlips, Clean, FlipDamage, RandomFlips, Report

KINDS = frozenset({"bit_flips"})


def judge_flips(report: Report, where: Where, require: Require) -> list[Judgement]:
    """Return a judgement for each result that `where` names: of so many flips, and of the match if it names one."""
    return [
        _judge(flips, result, require, report.clean, sampled=report.subject.data.sampled)
        for flips in report.bit_flips
        if where.match is None or where.match == flips.match
        for result in flips.results
        if result.count == where.bit_flips
    ]


def _judge(flips: BitFlips, result: FlipDamage, require: Require, clean: Clean, *, sampled: bool) -> Judgement:
    demand = read_demand(require)
    what = f"at most {result.count} flipped bit(s) of the weights {clean_text(flips.match, MAX_NAME)}"
    random = flips.random if flips.random is not None and flips.random.count <= result.count else None
    if result.non_finite is not None or (random is not None and random.non_finite_trials):
        return _say(flips, "exceeded", None, math.inf, f"{what} make the loss or outputs NaN or infinite, beyond every limit.")
    found = list(_find_observed(result, random, require, clean))
    observed = demand.find_worst(found)
    if observed is None or found[0] is None:
        message = f"the audit did not measure the {demand.figure} of {what}. Ask for it in objective.metrics and audit again."
        return _say(flips, "undecided", None, math.inf, message)
    excess = demand.compute_excess(observed)
    if demand.is_exceeded(observed) and not sampled:  # of a sample the excess may be chance
        return _say(flips, "exceeded", observed, excess, f"{what} were found that give {demand.describe(observed)}.")
    doubt = _find_doubt(flips, sampled=sampled)
    if doubt is not None:
        return _say(flips, "undecided", observed, excess, f"the search of {what} is incomplete: {doubt}")
    return _say(flips, "holds", observed, excess, f"the worst found of {what} give {demand.describe(observed)}.")


def _find_observed(result: FlipDamage, random: RandomFlips | None, require: Require, clean: Clean) -> Iterator[float | None]:
    """Yield the searched figure first, then that of the random flips."""
    metric = require.metric or ""
    drawn = random.metrics.get(metric) if random is not None else None
    if require.loss_change_at_most is not None:
        yield result.loss_change
        yield random.largest_loss_change if random is not None else None
    elif metric not in result.metrics:
        yield None
    elif require.drop_at_most is not None:
        yield result.metrics[metric].drop
        yield compute_drop(metric, clean.metrics.get(metric), drawn.worst if drawn is not None else None)
    else:
        yield result.metrics[metric].value
        yield drawn.worst if drawn is not None else None


def _find_doubt(flips: BitFlips, *, sampled: bool) -> str | None:
    if sampled:
        return "it saw a sample of the data, without limits for all of it. Audit without max_examples and precision."
    if flips.stop_reason == "zero_gradient":
        return "its gradient is zero and nothing was searched. Audit again."
    if flips.stop_reason == "deadline":
        return "it was cut off at the deadline. Audit again with more time."
    if flips.non_finite_flips:
        return f"{flips.non_finite_flips} flips make a weight NaN or infinite and were left out. Leave such bits out with kinds."
    return None


def _say(flips: BitFlips, state: State, observed: float | None, badness: float, message: str) -> Judgement:
    return Judgement(state, KINDS, flips.match, None, observed, badness, message)
