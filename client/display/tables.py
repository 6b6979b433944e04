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


def build_findings_table(first_column: str, findings: Sequence[Finding], console: Console, *, name_sets: bool = False) -> Table:
    """Return one row per finding; bars compare the loss change that was found."""
    wide = console.width >= WIDE
    bar_width, metric = BAR_WIDTH if wide else NARROW_BAR_WIDTH, _find_metric(findings)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, header_style="dim")
    table.add_column(first_column, ratio=1, overflow="fold", min_width=12)
    for name in ["weights", "found", "", "one step", "predicted", "random max", *([f"{metric} drop"] if metric else [])]:
        table.add_column(name if wide else name.replace(" ", "\n"), justify="left" if name == "" else "right", no_wrap=wide)
    largest = max((finding.measured.loss_change or 0.0 for finding in findings), default=0.0)
    for finding in findings:
        name = "whole model" if finding.scope.kind == "model" else one_line(finding.scope.name)
        table.add_row(
            Text(f"{name}, {name_set(finding)}" if name_sets else name),
            *_build_cells(finding, largest, bar_width, metric, console),
        )
    return table


def _build_cells(finding: Finding, largest: float, bar_width: int, metric: str | None, console: Console) -> list[Text]:
    measured, random = finding.measured, finding.random
    broken = measured.non_finite is not None
    share = 1.0 if broken else max(measured.loss_change or 0.0, 0.0) / largest if largest > 0 else 0.0
    found = Text("not finite", style="bold red") if broken else Text(show_change(measured.loss_change), style="bold")
    cells = [
        Text(show_count(finding.scope.weights)),
        found,
        Text(
            draw_bar(share, bar_width, unicode=console.encoding.lower().startswith("utf")),
            style="red" if share > 0.5 else "yellow",
        ),
        Text(show_change(finding.first_order.loss_change)),
        Text(show_change(finding.predicted.loss_change), style="dim"),
        Text(show_change(random.loss_change.max if random is not None else None)),
    ]
    if metric is not None:
        drop = measured.metrics[metric].drop if metric in measured.metrics else None
        cells.append(Text(show_drop(metric, drop).removesuffix(" points")))
    return cells


def _find_metric(findings: Sequence[Finding]) -> str | None:
    """Return the metric to show: the first that the findings have."""
    return next((metric for finding in findings for metric in finding.measured.metrics), None)
