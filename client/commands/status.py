"""`faultline status` and `faultline cancel`: one audit's job."""

from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from client.commands.shared import read_where, take_json, take_server
from client.connection import connect
from client.display.consoles import build_messages, build_output, write_json
from client.display.figures import NOTHING, one_line
from client.display.problem import print_faults
from client.display.progress import ProgressView
from client.errors import ExitCode
from schemas.job import TERMINAL_STATES, Job

STYLES = {"succeeded": "bold green", "failed": "bold red", "quarantined": "bold red", "cancelled": "yellow"}


@click.command(short_help="Show how far an audit is.")
@click.argument("audit_id", metavar="ID")
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    default=0,
    help="Seconds to wait for the end; then exit code 4.",
)
@take_json
@take_server
def status(*, audit_id: str, wait_s: float, as_json: bool, server: str | None, data_dir: Path | None) -> ExitCode:
    """Show how far audit ID is. The exit code is 0 for every state that could be told."""
    with ProgressView(build_messages()) as view, connect(read_where(server, data_dir), view.tell, may_start=False) as connected:
        job = connected.client.fetch_job(audit_id)
        if wait_s:
            job = connected.client.wait(job, wait_s, view.show_job)
        view.close()
        show_job(job, as_json=as_json)
    return ExitCode.SUCCESS


@click.command(short_help="Cancel an audit.")
@click.argument("audit_id", metavar="ID")
@take_json
@take_server
def cancel(*, audit_id: str, as_json: bool, server: str | None, data_dir: Path | None) -> ExitCode:
    """Cancel audit ID: a queued one at once, a running one as soon as its worker hears of it."""
    with ProgressView(build_messages()) as view, connect(read_where(server, data_dir), view.tell, may_start=False) as connected:
        job = connected.client.cancel(audit_id)
        view.close()
        show_job(job, as_json=as_json)
    return ExitCode.SUCCESS


def show_job(job: Job, *, as_json: bool) -> None:
    """Print a job, as JSON or for a person."""
    if as_json:
        write_json(job.model_dump(mode="json"))
    else:
        print_job(build_output(), job)


def print_job(console: Console, job: Job) -> None:
    """Print what is known of a job."""
    progress, running_s = job.progress, job.timings.running_s
    rows = {
        "audit": Text(one_line(job.id), style="bold"),
        "state": Text(
            job.state + (", cancellation asked for" if job.cancel_requested else ""), style=STYLES.get(job.state, "cyan")
        ),
        "progress": Text(f"{one_line(progress.phase)}, {progress.done} of {progress.total}" if progress is not None else NOTHING),
        "attempt": Text(str(job.attempt)),
        "created": Text(f"{job.created_at:%Y-%m-%d %H:%M:%S} UTC"),
        "ran for": Text(f"{running_s:.1f} s" if running_s is not None else NOTHING),
        "report": Text(one_line(job.report.sha256) if job.report is not None else NOTHING),
        "verdict": Text(job.verdict.outcome if job.verdict is not None else NOTHING),
        "labels": Text(", ".join(f"{one_line(name)}={one_line(value)}" for name, value in job.labels.items()) or NOTHING),
    }
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    for name, value in rows.items():
        if value.plain != NOTHING:
            table.add_row(name, value)
    console.print(table)
    if job.problem is not None:
        console.print(Text(one_line(job.problem.title), style="bold red"))
        print_faults(console, job.problem)
    elif job.state not in TERMINAL_STATES:
        console.print(Text(f"Wait for its end with: faultline status {one_line(job.id)} --wait 600", style="dim"))
