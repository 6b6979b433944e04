"""How every page is laid out: titled sections, and rows of a name and what is known of it."""

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from client.display.figures import draw_bar

BAR_WIDTH = 14
NARROW = 80


def print_section(console: Console, title: str, parts: Sequence[RenderableType]) -> None:
    """Print the parts under a title; nothing without parts."""
    if parts:
        console.print(Text(title, style="bold"))
        for part in parts:
            console.print(Padding(part, (0, 0, 0, 2), expand=False))
        console.print()


def build_grid(rows: Mapping[str, Sequence[str]]) -> Table:
    """Return one line per name with the facts, separated by commas; names without facts are left out."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    for name, facts in rows.items():
        if facts:
            table.add_row(name, Text(", ".join(facts)))
    return table


def start_table(*columns: str) -> Table:
    """Return a table; columns whose name starts with ">" are figures and stand to the right."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, header_style="dim")
    for column in columns:
        right = column.startswith(">")
        table.add_column(column.removeprefix(">"), justify="right" if right else "left", overflow="fold", no_wrap=right)
    return table


def draw_share(share: float, console: Console) -> Text:
    """Return a bar for a share of the whole."""
    width = BAR_WIDTH if console.width >= NARROW else BAR_WIDTH // 2
    return Text(draw_bar(share, width, unicode=console.encoding.lower().startswith("utf")), style="cyan")
