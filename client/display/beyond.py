"""Bit flips, samples and held-out examples, in words."""

from client.display.figures import one_line, show_change, show_count, show_drop, show_metric
from gate.wording import name_cell, show_number
from schemas.bounds import Interval
from schemas.report import BitFlips, Finding, FlipDamage, Report

MAX_HELD_OUT = 4


def describe_flips(flips: BitFlips) -> str:
    """Return what the largest search of one request found, and what random flips did."""
    worst = flips.results[-1]
    text = f"{_name_flips(flips)}: at most {worst.count} searched {'flip' if worst.count == 1 else 'flips'} {_tell_flips(worst)}"
    random = flips.random
    if random is None:
        return f"{text}."
    drops = [
        f"{one_line(name)} by {show_drop(name, (clean_drop.value or 0.0) + (clean_drop.drop or 0.0) - metric.worst)}"
        for name, metric in random.metrics.items()
        if (clean_drop := worst.metrics.get(name)) is not None
        and metric.worst is not None
        and name in {"accuracy", "top_3", "top_5", "top_10"}
    ]
    least = f"worsens {drops[0]}" if drops else f"changes the loss by {show_change(random.largest_loss_change)}"
    return f"{text}; the worst of {random.trials} random draws of {random.count} {least}."


def _name_flips(flips: BitFlips) -> str:
    where = "all weights" if flips.match == "*" else f"weights {one_line(flips.match)}"
    return f"{where} ({show_count(flips.weights)}, {show_count(flips.bits)} bits)"


def _tell_flips(damage: FlipDamage) -> str:
    if damage.loss_change is None:
        examples = damage.non_finite.examples if damage.non_finite is not None else 0
        return f"make outputs of {show_count(examples)} examples NaN or infinite"
    drops = [f"{one_line(name)} by {show_drop(name, one.drop)}" for name, one in damage.metrics.items() if one.drop is not None]
    worse = f" and worsen {drops[0]}" if drops else ""
    return f"change the loss by {show_change(damage.loss_change)}{worse}"


def describe_sampled(report: Report) -> list[str]:
    """Return the clean figures and what the worst corruptions of the widest scopes do, with limits for all of the data."""
    if not report.subject.data.sampled:
        return []
    clean = report.clean
    figures = [
        f"{one_line(name)} {show_metric(name, value)}{show_sample(clean.metric_intervals.get(name))}"
        for name, value in clean.metrics.items()
    ]
    whole = f"The unchanged model: {'; '.join([*figures, f'loss {clean.loss:.4g}{show_sample(clean.loss_interval)}'])}."
    widest = max((finding.scope.weights for finding in report.findings), default=0)
    wide = [finding for finding in report.findings if finding.scope.weights == widest]
    return [whole, *(_tell_sampled(finding) for finding in wide[:MAX_HELD_OUT])]


def _tell_sampled(finding: Finding) -> str:
    measured = finding.measured
    figures = [
        f"{one_line(name)} worsens by {show_drop(name, metric.drop)}{show_sample(metric.interval)}"
        for name, metric in measured.metrics.items()
        if metric.drop is not None
    ]
    if measured.loss_change is not None:
        figures.append(f"the loss changes by {show_change(measured.loss_change)}{show_sample(measured.interval)}")
    return f"{name_cell(finding)}: {'; '.join(figures)}."


def show_sample(interval: Interval | None) -> str:
    """Return the limits of a figure on sampled data, and how many examples they are from."""
    if interval is None:
        return ""
    if interval.method == "exact":
        return f" (exactly, on all {show_count(interval.sample)} examples)"
    return f"{_show_limits(interval)} from {show_count(interval.sample)} examples"


def describe_held_out(report: Report) -> list[str]:
    """Return what the worst corruptions of the widest scopes do to the held-out examples, with limits."""
    held = [finding for finding in report.findings if finding.held_out is not None]
    widest = max((finding.scope.weights for finding in held), default=0)
    return [line for finding in held if finding.scope.weights == widest for line in _tell_held_out(finding)][:MAX_HELD_OUT]


def _tell_held_out(finding: Finding) -> list[str]:
    seen = finding.held_out
    if seen is None:
        return []
    figures = [
        f"{one_line(name)} worsens by {show_drop(name, one.drop)}{_show_limits(one.drop_interval)}"
        for name, one in seen.metrics.items()
        if one.drop is not None
    ]
    if seen.loss_change is not None:
        figures.append(f"the loss changes by {show_change(seen.loss_change)}{_show_limits(seen.interval)}")
    return [f"{name_cell(finding)}: {'; '.join(figures)} on {show_count(seen.examples)} examples."] if figures else []


def _show_limits(interval: Interval | None) -> str:
    if interval is None:
        return ""
    lower, upper = ("none" if limit is None else show_number(limit) for limit in (interval.lower, interval.upper))
    return f" (limits {lower} to {upper}, {interval.confidence:.0%} each)"
