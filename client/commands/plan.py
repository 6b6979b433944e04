"""`faultline plan`: what an audit would cost, before it is run."""

from pathlib import Path
from typing import Any

import click

from client.commands.requesting import take_request, take_wait
from client.commands.shared import read_where, take_json, take_server
from client.connection import connect
from client.display.consoles import build_messages, build_output, write_json
from client.display.plan import print_plan, print_unsupported
from client.display.progress import ProgressView
from client.errors import ExitCode
from client.options import AuditOptions, prepare_audit
from client.running import upload_files
from schemas.plan import Plan

HELP = """Tell what an audit of MODEL would cost: passes, cells, memory, seconds. Nothing is searched.

Operators that are not supported are listed, with the share of the weights that could be audited without them. What else cannot
be done is refused with everything that is in its way, as the audit would be. The exit code is 2 in both cases.
"""


@click.command(help=HELP, short_help="Tell what an audit would cost.")
@take_request
@take_wait
@take_json
@take_server
def plan(*, server: str | None, data_dir: Path | None, wait_s: float, as_json: bool, **options: Any) -> ExitCode:
    """Plan one audit."""
    prepared = prepare_audit(AuditOptions(**options))
    with ProgressView(build_messages()) as view, connect(read_where(server, data_dir), view.tell, may_start=True) as connected:
        upload_files(connected.client, prepared.uploads, view)
        view.tell("Planning the audit")
        fetched = connected.client.plan(prepared.request, wait_s, view.show_job)
    found = fetched.plan
    if as_json:
        write_json(fetched.content)
    elif isinstance(found, Plan):
        print_plan(build_output(), found)
    else:
        print_unsupported(build_output(), found, ExitCode.INCONCLUSIVE)
    return ExitCode.SUCCESS if isinstance(found, Plan) else ExitCode.INCONCLUSIVE
