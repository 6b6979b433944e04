"""A bar chart of ratios as an SVG file, written by hand: groups of bars, one colour per series, a line at 1."""

from collections.abc import Mapping
from pathlib import Path
from xml.sax.saxutils import escape

COLOURS = ("#1f6feb", "#d29922", "#3fb950", "#8957e5")
BAR, GAP, LEFT, TOP, HEIGHT = 26, 30, 46, 50, 240


def draw_ratios(title: str, ratios: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Write the chart: ratios by group (network) and series (format)."""
    series = list(dict.fromkeys(name for bars in ratios.values() for name in bars))
    highest = max(value for bars in ratios.values() for value in bars.values())
    scale = HEIGHT / (1.1 * highest)
    bottom, x, parts = TOP + HEIGHT, LEFT + GAP, list[str]()
    for group, bars in ratios.items():
        start = x
        for name, value in bars.items():
            tall = value * scale
            colour = COLOURS[series.index(name) % len(COLOURS)]
            parts.append(f'<rect x="{x}" y="{bottom - tall:.1f}" width="{BAR - 3}" height="{tall:.1f}" fill="{colour}"/>')
            parts.append(_write(x + BAR / 2 - 1, bottom - tall - 4, f"{value:.2f}", 10))
            x += BAR
        parts.append(_write((start + x) / 2, bottom + 16, group, 12))
        x += GAP
    marks = [(mark, bottom - mark * scale) for mark in range(int(highest) + 1)]
    axis = [f'<line x1="{LEFT}" x2="{x}" y1="{y:.1f}" y2="{y:.1f}" stroke="{_shade(mark)}"/>' for mark, y in marks]
    axis += [_write(LEFT - 12, y + 4, str(mark), 12) for mark, y in marks]
    legend = [
        f'<rect x="{LEFT + 120 * i}" y="28" width="12" height="12" fill="{COLOURS[i % len(COLOURS)]}"/>'
        + _write(LEFT + 120 * i + 18, 38, name, 12, "start")
        for i, name in enumerate(series)
    ]
    body = "\n".join([_write(LEFT, 18, title, 14, "start"), *legend, *axis, *parts])
    x = max(x, LEFT + 120 * len(series), LEFT + 7 * len(title))
    size = f'width="{x}" height="{bottom + 30}" viewBox="0 0 {x} {bottom + 30}"'
    text = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif">\n'
    path.write_text(f'{text}<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n', encoding="utf-8")


def _shade(mark: int) -> str:
    return "#d1242f" if mark == 1 else "#d0d7de"


def _write(x: float, y: float, text: str, size: int, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="#24292f">{escape(text)}</text>'
