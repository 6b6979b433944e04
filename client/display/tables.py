"""Findings side by side: what the search found, what one step does, what was predicted, what chance does."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from client.display.figures import draw_bar, one_line, show_change, show_count, show_drop
from gate.wording import name_set
from schemas.report import Finding

WIDE = 100
BAR_WIDTH = 14
NARROW_BAR_WIDTH = 6


def build_ranking_table(first_column: str, findings: Sequence[Finding], console: Console) -> Table:
    """Return one row per scope under one set; bars compare the loss changes that were found."""
    table, metric = _start_table(first_column, findings, console, with_bars=True), _find_metric(findings)
    largest = max((finding.measured.loss_change or 0.0 for finding in findings), default=0.0)
    for finding in findings:
        weights, found, *rest = _build_cells(finding, metric)
        table.add_row(Text(one_line(finding.scope.name)), weights, found, _draw_share(finding, largest, console), *rest)
    return table


def build_sets_table(findings: Sequence[Finding], console: Console) -> Table:
    """Return one row per finding, named by its corruption set, and by its scope unless that is the whole model."""
    table, metric = _start_table("set", findings, console, with_bars=False), _find_metric(findings)
    for finding in findings:
        prefix = "" if finding.scope.kind == "model" else f"{one_line(finding.scope.name)}, "
        table.add_row(Text(prefix + name_set(finding)), *_build_cells(finding, metric))
    return table


def _start_table(first_column: str, findings: Sequence[Finding], console: Console, *, with_bars: bool) -> Table:
    wide, metric = console.width >= WIDE, _find_metric(findings)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, header_style="dim")
    table.add_column(first_column, ratio=1, overflow="fold", min_width=12)
    bars = [""] if with_bars else []
    for name in ["weights", "found", *bars, "one step", "predicted", "random max", *([f"{metric} drop"] if metric else [])]:
        table.add_column(name if wide else name.replace(" ", "\n"), justify="right" if name else "left", no_wrap=wide)
    return table


def _draw_share(finding: Finding, largest: float, console: Console) -> Text:
    width = BAR_WIDTH if console.width >= WIDE else NARROW_BAR_WIDTH
    change = finding.measured.loss_change or 0.0
    share = 1.0 if finding.measured.non_finite is not None else change / largest if largest > 0 else 0.0
    bar = draw_bar(share, width, unicode=console.encoding.lower().startswith("utf"))
    return Text(bar, style="red" if share > 0.5 else "yellow")


def _build_cells(finding: Finding, metric: str | None) -> list[Text]:
    measured, random = finding.measured, finding.random
    broken = measured.non_finite is not None
    cells = [
        Text(show_count(finding.scope.weights)),
        Text("not finite", style="bold red") if broken else Text(show_change(measured.loss_change), style="bold"),
        Text(show_change(finding.first_order.loss_change)),
        Text(show_change(finding.predicted.loss_change), style="dim"),
        Text(show_change(random.loss_change.max if random is not None else None)),
    ]
    if metric is not None:
        drop = measured.metrics[metric].drop if metric in measured.metrics else None
        cells.append(Text(show_drop(metric, drop).replace("points", "pt")))
    return cells


def _find_metric(findings: Sequence[Finding]) -> str | None:
    """Return the metric to show: the first that the findings have."""
    return next((metric for finding in findings for metric in finding.measured.metrics), None)
