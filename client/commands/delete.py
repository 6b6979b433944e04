"""`faultline delete`: what the server keeps of audits and files."""

from pathlib import Path

import click

from client.commands.shared import read_where, take_server
from client.connection import connect
from client.display.consoles import build_messages
from client.display.progress import ProgressView
from client.errors import ExitCode


@click.command(short_help="Delete audits that have ended, or files.")
@click.argument("names", metavar="ID|SHA256...", nargs=-1, required=True)
@take_server
def delete(*, names: tuple[str, ...], server: str | None, data_dir: Path | None) -> ExitCode:
    """Delete what is kept of audits that have ended (record, report, counterexamples), or uploaded files by their sha-256."""
    with ProgressView(build_messages()) as view, connect(read_where(server, data_dir), view.tell, may_start=False) as connected:
        for name in names:
            connected.client.delete(name)
            view.note(f"Deleted {name}")
    return ExitCode.SUCCESS
