"""Conditions on breaking points: how far may the weights move before a limit is crossed.

The search measures lower bounds of the damage, so only `hi` proves something: there the limit IS crossed.
With the threshold t, the bracket [lo, hi] and the last epsilon e of a range that was never crossed (or n, along max_corrupted):

    hi < t                 exceeded: the limit is crossed below the threshold
    not reached, e >= t    holds, as searched: nothing was found up to the threshold
    not reached, e < t     undecided: nobody looked between e and the threshold
    hi >= t, lo >= t / 1.1     holds, as searched: no crossing was found below the threshold, and the search looked
                           to within the bracket's own resolution of it (along max_corrupted also lo >= t - 1)
    hi >= t, lo < t / 1.1     undecided: between lo and the threshold nobody looked, so "nothing was found" would be
                           said of what was never tried; also when the range starts above the threshold

Where the data was sampled, a crossing counts if the lower limit of the damage at hi reaches the limit, and that nothing was
found counts if the upper limit of the damage at lo is below it; in between the condition's `undecided` decides.
"""

from gate.judgement import Judgement, State
from gate.wording import name_limit, name_point, show_number, show_place
from schemas.report import BreakingPoint

BRACKET_RESOLUTION = 1.1
"""How far below the threshold the last uncrossed epsilon may lie, as a ratio."""


def judge_point(point: BreakingPoint, threshold: float, kinds: frozenset[str], confidence: float, *, sampled: bool) -> Judgement:
    """Return whether `point` is found to lie at `threshold` or above; `kinds` are those of its scope."""
    state, reason = _judge_reached(point, threshold) if point.reached else _judge_unreached(point, threshold)
    if sampled and state in {"exceeded", "holds"}:
        state, doubt = _read_limits(point, state, confidence)
        reason += doubt
    shown = point.bracket.hi if point.reached else point.bracket.lo
    badness = -(shown if shown is not None else 0.0)
    message = f"the breaking point of {name_point(point)}, for {name_limit(point)}: {reason}"
    return Judgement(state, kinds, point.scope, None, shown, badness, message)


def _read_limits(point: BreakingPoint, state: State, confidence: float) -> tuple[State, str]:
    """Return what limits leave of a judgement on sampled data, and the sentence that says so."""
    crossed, limit = state == "exceeded", point.limit.get("loss_change") or point.limit.get("drop")
    if crossed and point.observed is None:
        return state, ""  # not finite on one example, so not on all of the data
    interval = point.interval if crossed else point.lo_interval
    if interval is None or not isinstance(limit, int | float):
        return "undecided", " But the report has no confidence limits for that. Run the audit again."
    if interval.method != "exact" and interval.confidence < confidence:
        return "undecided", f" But its limits have confidence {show_number(interval.confidence)} only: raise that of the request."
    if crossed:
        kept = interval.lower is not None and interval.lower >= limit
    else:
        kept = interval.upper is not None and interval.upper < limit and not interval.asymptotic
    return (state, "") if kept else ("between", " But the limits of the damage there do not tell on which side it is.")


def _judge_reached(point: BreakingPoint, threshold: float) -> tuple[State, str]:
    lo, hi, wanted = point.bracket.lo, point.bracket.hi, show_number(threshold)
    if hi is None:
        return "undecided", "the report says that it was reached and not where. Run the audit again."
    if hi < threshold:
        return "exceeded", f"the limit is crossed at {show_place(point, hi)}; the policy wants {wanted} or more."
    neighbours = point.along == "max_corrupted" and lo is not None and lo + 1 >= threshold
    if lo is not None and (neighbours or lo * BRACKET_RESOLUTION >= threshold):
        return "holds", f"no crossing was found below {show_place(point, hi)}; the policy wants {wanted} or more."
    looked = (
        f"nothing was tried between {show_place(point, lo)}" if lo is not None else "nothing was tried below the range's start"
    )
    advice = f"Audit again with a range around {wanted}, or with a larger budget."
    return "undecided", f"{looked} and the threshold {wanted}; the limit is crossed at {show_place(point, hi)}. {advice}"


def _judge_unreached(point: BreakingPoint, threshold: float) -> tuple[State, str]:
    end, wanted = point.bracket.lo, show_number(threshold)
    if end is None:
        return "undecided", "the report does not say how far the search went. Run the audit again."
    if end >= threshold:
        return "holds", f"no crossing was found up to {show_place(point, end)}; the policy wants {wanted} or more."
    advice = f"Audit again with a range that reaches {wanted}."
    return "undecided", f"no crossing was found up to {show_place(point, end)}, but the policy wants {wanted}. {advice}"
