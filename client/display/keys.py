"""Keys for a person: a table of many, and what is said when one was made."""

from collections.abc import Sequence
from datetime import datetime

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from client.display.figures import NOTHING, one_line
from schemas.keys import KeyInfo, MadeKey

STYLES = {"live": "green", "expired": "yellow", "revoked": "dim"}


def print_keys(console: Console, infos: Sequence[KeyInfo]) -> None:
    """Print one row per key."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, header_style="dim")
    for name in ("id", "tenant", "label", "scopes", "state", "created", "ends", "last used"):
        table.add_column(name, no_wrap=name in {"id", "state"}, overflow="fold")
    for info in infos:
        state = Text(info.state, style=STYLES[info.state])
        cells = [Text(one_line(text)) for text in (info.id, info.tenant, info.label, ", ".join(info.scopes))]
        ends_at = info.revoked_at or info.expires_at
        table.add_row(*cells, state, _show_time(info.created_at), _show_time(ends_at), _show_time(info.last_used_at))
    console.print(table if infos else Text("There are no keys.", style="dim"))


def print_made(messages: Console, made: MadeKey) -> None:
    """Say what was made; the key itself is the result and stands elsewhere."""
    info = made.info
    end = f", until {_show_time(info.expires_at)}" if info.expires_at is not None else ""
    what = f"Key {info.id} of tenant {info.tenant}, label {info.label}, for {', '.join(info.scopes)}{end}."
    messages.print(Text(one_line(what)))
    messages.print(Text("It is shown this once; keep it where only its user can read it."))


def _show_time(time: datetime | None) -> str:
    return NOTHING if time is None else f"{time:%Y-%m-%d %H:%M}"
