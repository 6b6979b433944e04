"""A bar chart of ratios as an SVG file, written by hand: a group per network, a line at 1, marks at what is asked for."""

from collections.abc import Mapping
from pathlib import Path
from xml.sax.saxutils import escape

COLOURS = ("#2563a8", "#d98324", "#3d8b62", "#7d5ba6")
INK, FAINT, PALE, LINE = "#1f2328", "#656d76", "#e4e7eb", "#b3261e"
BAR, GAP, LEFT, RIGHT, TOP, HEIGHT, BELOW = 30, 34, 52, 96, 92, 260, 44
LEGEND = 120
FONT = "Helvetica, Arial, 'DejaVu Sans', sans-serif"


def draw_ratios(
    title: str, subtitle: str, ratios: Mapping[str, Mapping[str, float]], asked: Mapping[str, Mapping[str, float]], path: Path
) -> None:
    """Write the chart: ratios by group (network) and series (format); asked: what is asked for, where something is."""
    series = list(dict.fromkeys(name for bars in ratios.values() for name in bars))
    highest = max(value for bars in ratios.values() for value in bars.values())
    scale, bottom, x, parts = HEIGHT / (1.08 * highest), TOP + HEIGHT, LEFT + GAP // 2, list[str]()
    for group, bars in ratios.items():
        parts.append(_write(x + len(bars) * BAR / 2 - 1, bottom + 20, group, 13))
        for name, value in bars.items():
            tall = value * scale
            colour = COLOURS[series.index(name) % len(COLOURS)]
            parts.append(f'<rect x="{x}" y="{bottom - tall:.1f}" width="{BAR - 3}" height="{tall:.1f}" rx="2" fill="{colour}"/>')
            parts.append(_write(x + BAR / 2 - 1.5, bottom - tall - 6, f"{value:.2f}", 11, colour=INK))
            if name in asked.get(group, {}):
                parts.append(_mark(x, bottom - asked[group][name] * scale))
            x += BAR
        x += GAP
    right = x - GAP // 2
    body = [*_write_head(title, subtitle, series, marked=bool(asked)), *_draw_axis(bottom, right, scale, highest), *parts]
    body.append(_write(right + 8, bottom - scale + 4, "plain script", 11, "start", LINE))
    width, height = max(right + RIGHT, LEFT + LEGEND * (len(series) + 1) + 60), bottom + BELOW
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    text = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="{FONT}" role="img" aria-label="{escape(title)}">\n'
    lines = "\n".join(body)
    path.write_text(f'{text}<rect width="100%" height="100%" fill="white"/>\n{lines}\n</svg>\n', encoding="utf-8")


def _write_head(title: str, subtitle: str, series: list[str], *, marked: bool) -> list[str]:
    head = [_write(LEFT, 24, title, 17, "start", INK, weight=600), _write(LEFT, 43, subtitle, 12, "start", FAINT)]
    for i, name in enumerate(series):
        x = LEFT + LEGEND * i
        head.append(f'<rect x="{x}" y="56" width="12" height="12" rx="2" fill="{COLOURS[i % len(COLOURS)]}"/>')
        head.append(_write(x + 18, 66.5, name, 12, "start", INK))
    if marked:
        x = LEFT + LEGEND * len(series)
        head += [_mark(x - 6, 62), _write(x + 28, 66.5, "asked for", 12, "start", INK)]
    return head


def _draw_axis(bottom: int, right: int, scale: float, highest: float) -> list[str]:
    found = []
    for mark in range(int(highest) + 1):
        y, colour = bottom - mark * scale, {0: INK, 1: LINE}.get(mark, PALE)
        found.append(f'<line x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="{colour}"/>')
        found.append(_write(LEFT - 10, y + 4, f"{mark} x" if mark else "0", 12, "end"))
    return found


def _mark(x: float, y: float) -> str:
    line = f'x1="{x - 2:.1f}" x2="{x + BAR - 1:.1f}" y1="{y:.1f}" y2="{y:.1f}"'
    return f'<line {line} stroke="white" stroke-width="4"/><line {line} stroke="{INK}" stroke-width="2"/>'


def _write(x: float, y: float, text: str, size: int, anchor: str = "middle", colour: str = FAINT, weight: int = 400) -> str:
    look = f'font-size="{size}" font-weight="{weight}" text-anchor="{anchor}" fill="{colour}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {look}>{escape(text)}</text>'
