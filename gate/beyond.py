"""Conditions on held-out data: one-sided limits against a threshold, where a report was measured with `evaluate_on`."""

from typing import Literal, NamedTuple

from gate.damage import Demand, read_demand
from gate.wording import show_number
from schemas.bounds import HeldOut, Interval
from schemas.policy import Require

Decision = Literal["exceeded", "holds", "between", "undecided"]


ASYMPTOTIC_ADVICE = "limits of a loss can fail a condition but not pass it: gate on a metric, or set the condition's undecided"


class Seen(NamedTuple):
    """A figure on the held-out examples and its limits."""

    value: float
    interval: Interval | None


class BeyondJudgement(NamedTuple):
    """What the limits decide; `between`: the threshold lies between them, `undecided`: there are none that count."""

    decision: Decision
    observed: float | None
    message: str


def judge_beyond(held_out: HeldOut, require: Require, confidence: float) -> BeyondJudgement:
    """Return whether the demand is kept beyond the data, at the policy's confidence."""
    demand, seen = read_demand(require), _find_seen(held_out, require)
    if require.loss_change_at_most is not None and held_out.loss_change is None:
        return BeyondJudgement("exceeded", None, "makes the loss of held-out examples NaN or infinite, which exceeds every limit")
    if seen is None:
        return BeyondJudgement("undecided", None, f"the {demand.figure} was not measured on the held-out examples")
    interval = seen.interval
    figure = f"a {demand.figure} of {show_number(seen.value)} on {held_out.examples} held-out examples"
    if interval is None:
        return BeyondJudgement("undecided", seen.value, f"{figure}, which has no confidence limits")
    if interval.confidence < confidence:
        asked = f"set confidence to {show_number(confidence)} in the request and audit again"
        return BeyondJudgement(
            "undecided", seen.value, f"{figure} has limits of confidence {show_number(interval.confidence)}: {asked}"
        )
    limits = (
        f"between {_show(interval.lower)} and {_show(interval.upper)}, each with confidence {show_number(interval.confidence)}"
    )
    decision = _decide(demand, interval)
    why = f" ({ASYMPTOTIC_ADVICE})" if decision == "between" and interval.asymptotic else ""
    return BeyondJudgement(decision, seen.value, f"{figure}, beyond them {limits}{why}")


def _find_seen(held_out: HeldOut, require: Require) -> Seen | None:
    if require.loss_change_at_most is not None:
        return None if held_out.loss_change is None else Seen(held_out.loss_change, held_out.interval)
    metric = held_out.metrics.get(require.metric or "")
    if metric is None:
        return None
    value, interval = (
        (metric.drop, metric.drop_interval) if require.drop_at_most is not None else (metric.value, metric.value_interval)
    )
    return None if value is None else Seen(value, interval)


def _decide(demand: Demand, interval: Interval) -> Decision:
    best, worst = (interval.upper, interval.lower) if demand.from_below else (interval.lower, interval.upper)
    if best is not None and demand.is_exceeded(best):
        return "exceeded"
    # An asymptotic limit of a skewed loss can be far too low: it may condemn, but not acquit.
    kept = worst is not None and not demand.is_exceeded(worst) and not interval.asymptotic
    return "holds" if kept else "between"


def _show(limit: float | None) -> str:
    return "no limit" if limit is None else show_number(limit)
