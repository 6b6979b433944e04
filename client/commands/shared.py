"""Options that several commands share, and what they mean."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from client.connection import Where
from client.credentials import find_key
from client.decision import LENIENCIES
from client.errors import ExitCode
from client.files import LoadedReport, load_report
from schemas.job import Job
from schemas.problem import Problem
from schemas.verdict import Verdict

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

READABLE = click.Path(path_type=Path, dir_okay=False)
KEY_FILE = "client.key_file"


def take_server(command: CommandT) -> CommandT:
    """Add --server, --data-dir and --key-file."""
    data_dir = click.option(
        "--data-dir",
        type=click.Path(path_type=Path, file_okay=False),
        help="Folder of a service on this machine.  [default: .faultline]",
    )
    server = click.option("--server", envvar="FAULTLINE_URL", metavar="URL", help="Address of the service (or FAULTLINE_URL).")
    key_file = click.option(
        "--key-file",
        type=READABLE,
        expose_value=False,
        callback=_note_key_file,
        help="File that holds the key for the service (or FAULTLINE_KEY).",
    )
    return server(data_dir(key_file(command)))


def _note_key_file(context: click.Context, _: click.Parameter, path: Path | None) -> None:
    context.meta[KEY_FILE] = path


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
    """Return where to find the server; the key comes from a file or the environment, so that no process list shows it."""
    return Where(server or None, find_key(click.get_current_context().meta.get(KEY_FILE)), data_dir)


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
