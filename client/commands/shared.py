"""Options that several commands share, and what they mean."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from client.connection import Where
from client.decision import LENIENCIES
from client.errors import ExitCode
from client.files import LoadedReport, load_report
from schemas.job import Job
from schemas.problem import Problem
from schemas.verdict import Verdict

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

READABLE = click.Path(path_type=Path, dir_okay=False)


def take_server(command: CommandT) -> CommandT:
    """Add --server and --data-dir."""
    data_dir = click.option(
        "--data-dir",
        type=click.Path(path_type=Path, file_okay=False),
        help="Folder of a service on this machine.  [default: .faultline]",
    )
    server = click.option("--server", envvar="FAULTLINE_URL", metavar="URL", help="Address of the service (or FAULTLINE_URL).")
    return server(data_dir(command))


def take_json(command: CommandT) -> CommandT:
    """Add --json."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output and nothing else.")(
        command
    )


def take_leniency(command: CommandT) -> CommandT:
    """Add --on-inconclusive."""
    return click.option(
        "--on-inconclusive",
        type=click.Choice(LENIENCIES),
        default="fail",
        show_default=True,
        help="What an inconclusive verdict is for the exit code; fail keeps 2.",
    )(command)


def read_where(server: str | None, data_dir: Path | None) -> Where:
    """Return where to find the server; the key comes from the environment only, so that no process list shows it."""
    return Where(server or None, os.environ.get("FAULTLINE_KEY") or None, data_dir)


def read_baseline(named: str | None) -> LoadedReport | str | None:
    """Return the report that a file holds, or the audit id that was named."""
    return load_report(Path(named)) if named is not None and Path(named).is_file() else named


def describe_result(
    job: Job | None,
    code: ExitCode,
    report_sha256: str | None = None,
    verdict: Verdict | None = None,
    problem: Problem | None = None,
) -> dict[str, Any]:
    """Return the one JSON object of --json."""
    return {
        "job": None if job is None else job.model_dump(mode="json"),
        "report_sha256": report_sha256,
        "verdict": None if verdict is None else verdict.model_dump(mode="json"),
        "problem": None if problem is None else problem.model_dump(mode="json"),
        "exit_code": int(code),
    }
