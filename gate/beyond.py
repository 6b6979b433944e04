"""Conditions on figures with limits: one-sided limits against a threshold, on held-out examples or on sampled data."""

from typing import Literal, NamedTuple

from gate.damage import Demand
from gate.wording import add_article, show_number
from schemas.bounds import HeldOut, Interval
from schemas.policy import Require
from schemas.report import Measured

Decision = Literal["exceeded", "holds", "between", "undecided"]


ASYMPTOTIC_ADVICE = "limits of a loss can fail a condition but not pass it: gate on a metric, or set the condition's undecided"


class Seen(NamedTuple):
    """A figure from some examples, its limits, and in words which examples these are and what the limits are for."""

    value: float | None
    interval: Interval | None
    examples: str
    limited: str


class LimitJudgement(NamedTuple):
    """What the limits decide; `between`: the threshold lies between them, `undecided`: there are none that count."""

    decision: Decision
    observed: float | None
    message: str


def read_held_out(held_out: HeldOut, require: Require) -> Seen:
    """Return what a demand is about on the examples of `evaluate_on`."""
    examples, limited = f"on {held_out.examples} held-out examples", "beyond them"
    metric = held_out.metrics.get(require.metric or "")
    if require.loss_change_at_most is not None:
        return Seen(held_out.loss_change, held_out.interval, examples, limited)
    if metric is None:
        return Seen(None, None, examples, limited)
    if require.drop_at_most is not None:
        return Seen(metric.drop, metric.drop_interval, examples, limited)
    return Seen(metric.value, metric.value_interval, examples, limited)


def read_sampled(measured: Measured, require: Require, population: int) -> Seen:
    """Return what a demand is about on the examples that were drawn from the data."""
    metric = measured.metrics.get(require.metric or "")
    if require.loss_change_at_most is not None:
        value, interval = measured.loss_change, measured.interval
    elif metric is None:
        value, interval = None, None
    elif require.drop_at_most is not None:
        value, interval = metric.drop, metric.interval
    else:
        value, interval = metric.value, metric.value_interval
    examples = measured.examples if interval is None else interval.sample
    return Seen(value, interval, f"on {examples} of {population} examples", "on all of them")


def judge_limits(seen: Seen, demand: Demand, confidence: float) -> LimitJudgement:
    """Return whether the demand is kept where the limits hold, at the policy's confidence."""
    value, interval = seen.value, seen.interval
    if value is None:
        return LimitJudgement("undecided", None, f"{add_article(demand.figure)} that was not measured {seen.examples}")
    figure = f"{add_article(demand.figure)} of {show_number(value)} {seen.examples}"
    if interval is None:
        return LimitJudgement("undecided", value, f"{figure}, which has no confidence limits")
    if interval.method == "exact":
        return LimitJudgement(_decide(demand, interval), value, figure)
    if interval.confidence < confidence:
        asked = f"set confidence to {show_number(confidence)} in the request and audit again"
        return LimitJudgement(
            "undecided", value, f"{figure} has limits of confidence {show_number(interval.confidence)}: {asked}"
        )
    limits = (
        f"between {_show(interval.lower)} and {_show(interval.upper)}, each with confidence {show_number(interval.confidence)}"
    )
    decision = _decide(demand, interval)
    why = f" ({ASYMPTOTIC_ADVICE})" if decision == "between" and interval.asymptotic else ""
    return LimitJudgement(decision, value, f"{figure}, {seen.limited} {limits}{why}")


def _decide(demand: Demand, interval: Interval) -> Decision:
    best, worst = (interval.upper, interval.lower) if demand.from_below else (interval.lower, interval.upper)
    if best is not None and demand.is_exceeded(best):
        return "exceeded"
    # An asymptotic limit of a skewed loss can be far too low: it may condemn, but not acquit.
    kept = worst is not None and not demand.is_exceeded(worst) and not interval.asymptotic
    return "holds" if kept else "between"


def _show(limit: float | None) -> str:
    return "no limit" if limit is None else show_number(limit)
