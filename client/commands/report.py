"""`faultline report`: a report from the service or from a file."""

from pathlib import Path

import click

from client.api import FetchedReport
from client.commands.shared import READABLE, read_where, take_server
from client.connection import connect
from client.display.consoles import build_messages, build_output, write_json
from client.display.progress import ProgressView
from client.display.report import print_report
from client.errors import ExitCode
from client.files import check_writable, load_report
from schemas.base import canonical_bytes


@click.command(short_help="Show or save a report.")
@click.argument("named", metavar="ID|FILE")
@click.option("--format", "format_", type=click.Choice(["text", "json"]), help="[default: text, with --out json]")
@click.option("--out", type=READABLE, help="Write into this file instead of standard output.")
@take_server
def report(named: str, format_: str | None, out: Path | None, server: str | None, data_dir: Path | None) -> ExitCode:
    """Show the report of audit ID, or the one in FILE. As json it comes in its canonical bytes, whose sha-256 is its name."""
    check_writable(out)
    found = _find_report(named, server, data_dir)
    wanted = format_ or ("json" if out is not None else "text")
    if out is not None and wanted == "json":
        out.write_bytes(found.content)
    elif out is not None:
        with out.open("w", encoding="utf-8") as file:
            print_report(build_output(file), found.report)
    elif wanted == "json":
        write_json(found.content)
    else:
        print_report(build_output(), found.report)
    return ExitCode.SUCCESS


def _find_report(named: str, server: str | None, data_dir: Path | None) -> FetchedReport:
    if Path(named).is_file():
        loaded = load_report(Path(named))
        return FetchedReport(loaded.report, canonical_bytes(loaded.content), loaded.sha256)
    with ProgressView(build_messages()) as view, connect(read_where(server, data_dir), view.tell, may_start=False) as connected:
        return connected.client.fetch_report(named)
