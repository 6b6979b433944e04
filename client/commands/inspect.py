"""`faultline inspect`: what is inside a model, and whether it can be audited."""

from pathlib import Path
from typing import Any

import click

from client.commands.requesting import DATA_FORMAT, INPUTS, take_wait
from client.commands.shared import read_where, take_json, take_server
from client.connection import connect
from client.display.consoles import build_messages, build_output, write_json
from client.display.inspection import print_inspection
from client.display.progress import ProgressView
from client.errors import ExitCode
from client.options import AuditOptions, prepare_inspection
from client.running import upload_files

HELP = """Show what is inside MODEL: inputs, outputs, weights and their roles, operators, and whether it can be audited.

The model is opened by a worker, in a confined process; the exit code is 2 when it cannot be audited.
"""


@click.command(help=HELP, short_help="Show what is inside a model.")
@click.argument("model")
@click.option(
    "--data", metavar="FILE|FOLDER", help="Examples to compare our outputs with the runtime's on; else some are made up."
)
@INPUTS
@DATA_FORMAT
@click.option("--fresh", is_flag=True, help="Look again although an equal inspection is kept.")
@take_wait
@take_json
@take_server
def inspect(*, server: str | None, data_dir: Path | None, wait_s: float, as_json: bool, **options: Any) -> ExitCode:
    """Inspect one model."""
    prepared = prepare_inspection(AuditOptions(**options))
    with ProgressView(build_messages()) as view, connect(read_where(server, data_dir), view.tell, may_start=True) as connected:
        upload_files(connected.client, prepared.uploads, view)
        view.tell("Inspecting the model")
        fetched = connected.client.inspect(prepared.request, wait_s, view.show_job)
    found = fetched.inspection
    code = ExitCode.INCONCLUSIVE if found.unsupported or found.refusals else ExitCode.SUCCESS
    if as_json:
        write_json(fetched.content)
    else:
        print_inspection(build_output(), found, code)
    return code
