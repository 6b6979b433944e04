"""A report for a person: what was audited, which layers are weak, gradient against chance, breaking points, doubts."""

from collections.abc import Sequence

from rich.console import Console, RenderableType
from rich.text import Text

from client.display.beyond import describe_flips, describe_held_out, describe_sampled, show_sample
from client.display.comparison import compare_models, compare_with_random
from client.display.figures import NOTHING, one_line, show_change, show_count, show_digest, show_drop, show_metric, show_size
from client.display.sections import build_grid, print_section
from client.display.tables import build_ranking_table, build_sets_table
from gate.wording import name_ball, name_limit, name_point, show_place
from schemas.ranking import Ranking
from schemas.report import BreakingPoint, Finding, Flag, Report

MAX_RANKINGS = 4
MAX_ROWS = 12
COLUMNS = {"per_module": "module", "per_tensor": "tensor", "per_component": "component", "per_depth": "depth band"}
SEVERITY_STYLES = {"critical": "bold red", "warning": "yellow", "info": "cyan"}


def print_report(console: Console, report: Report) -> None:
    """Print the whole report for the console's width."""
    print_section(console, "Audit", [_build_header(report)])
    whole = [finding for finding in report.findings if finding.scope.kind in {"model", "named"}]
    if whole:
        print_section(console, _name_wide_scopes(whole), [build_sets_table(whole, console)])
    _print_rankings(console, report)
    print_section(console, "Gradient against chance", [Text(sentence) for sentence in compare_with_random(report)])
    print_section(console, "Beside another model", [Text(sentence) for sentence in compare_models(report)])
    print_section(console, "Breaking points", [Text(describe_point(point)) for point in report.breaking_points])
    print_section(console, "Bit flips", [Text(describe_flips(flips)) for flips in report.bit_flips])
    print_section(console, "On samples of the data", [Text(sentence) for sentence in describe_sampled(report)])
    print_section(console, "On held-out examples", [Text(sentence) for sentence in describe_held_out(report)])
    print_section(console, "Doubts", [draw_flag(flag) for flag in report.flags])


def describe_point(point: BreakingPoint) -> str:
    """Return a breaking point in words."""
    where, limit, bracket = name_point(point), name_limit(point), point.bracket
    if not point.reached or bracket.hi is None:
        end = f"up to {show_place(point, bracket.lo)}" if bracket.lo is not None else "in the range that was searched"
        return f"{where}: no corruption {end} was found to cause {limit}.{_tell_seen(point)}"
    below = f"; none was found at {show_place(point, bracket.lo)}" if bracket.lo is not None else ", the start of the range"
    return f"{where}: {limit} at {show_place(point, bracket.hi)}{below}.{_tell_seen(point)}"


def _tell_seen(point: BreakingPoint) -> str:
    """Return what was measured there, where the data was sampled."""
    if point.interval is None or point.observed is None:
        return ""
    metric = point.limit.get("metric")
    seen = show_change(point.observed) if metric is None else show_drop(str(metric), point.observed)
    return f" Measured there: {seen}{show_sample(point.interval)}."


def _build_header(report: Report) -> RenderableType:
    model, data, coverage, clean = report.subject.model, report.subject.data, report.coverage, report.clean
    share = coverage.weights_audited / coverage.weights_total if coverage.weights_total else 0.0
    metrics = [f"{one_line(name)} {show_metric(name, value)}" for name, value in clean.metrics.items()]
    opset = f" opset {model.opset}" if model.opset is not None else ""
    rows = {
        "model": [f"{model.format}{opset}", one_line(model.producer), show_size(model.size_bytes), show_digest(model.sha256)],
        "data": [
            f"{show_count(data.examples)} examples",
            *([f"searched on {show_count(data.search_examples)} of them"] if data.search_examples is not None else []),
            f"{show_count(data.labels_counted)} labels",
            show_digest(data.sha256),
        ],
        "weights": [
            f"{show_count(coverage.weights_audited)} of {show_count(coverage.weights_total)} audited ({share:.1%})",
            f"{coverage.tensors_audited} of {coverage.tensors_total} tensors",
        ],
        "clean": [f"loss {clean.loss:.4g}", *metrics],
    }
    return build_grid(rows)


def _print_rankings(console: Console, report: Report) -> None:
    findings = {finding.id: finding for finding in report.findings}
    for ranking in report.ranking[:MAX_RANKINGS]:
        known = [findings[entry.finding] for entry in ranking.scopes if entry.finding in findings]
        column = COLUMNS.get(ranking.kind, "scope")
        parts: list[RenderableType] = [build_ranking_table(column, known[:MAX_ROWS], console)]
        if len(known) > MAX_ROWS:
            parts.append(Text(f"{len(known) - MAX_ROWS} less vulnerable ones are in the JSON report", style="dim"))
        print_section(console, f"Most vulnerable {column}s: {_name_set(ranking)}", parts)
    if len(report.ranking) > MAX_RANKINGS:
        print_section(console, f"{len(report.ranking) - MAX_RANKINGS} more rankings are in the JSON report", [Text()])


def _name_wide_scopes(findings: Sequence[Finding]) -> str:
    kinds = {finding.scope.kind for finding in findings}
    return {frozenset({"model"}): "Whole model", frozenset({"named"}): "Named scopes"}.get(
        frozenset(kinds), "Whole model and named scopes"
    )


def _name_set(ranking: Ranking) -> str:
    given = ranking.set
    few = f", at most {given['max_corrupted']} weights" if given.get("max_corrupted") is not None else ""
    epsilon = given.get("epsilon")
    return f"{name_ball(given.get('norm'), epsilon, str(given.get('scale')))}{few}" if isinstance(epsilon, float) else NOTHING


def draw_flag(flag: Flag) -> Text:
    """Return a doubt with what to do about it."""
    where = f" on {one_line(flag.scope)}" if flag.scope is not None else ""
    text = Text(f"{flag.severity} ", style=SEVERITY_STYLES.get(flag.severity, ""))
    return text.append_text(Text(f"{one_line(flag.code)}{where}: {one_line(flag.advice)}", style="default"))
