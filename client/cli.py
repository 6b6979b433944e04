"""The `faultline` command: parses, runs one subcommand, and ends with one of the exit codes of docs/cli.md."""

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

import click

from client.commands.audit import audit
from client.commands.delete import delete
from client.commands.inspect import inspect
from client.commands.keys import keys
from client.commands.plan import plan
from client.commands.replay import replay
from client.commands.report import report
from client.commands.shared import describe_result
from client.commands.status import cancel, status
from client.commands.up import up
from client.commands.verdict import verdict
from client.commands.worker import worker
from client.display.consoles import build_messages, silence, write_json
from client.display.problem import print_error
from client.errors import AuditFailed, ExitCode, GaveUp, ProblemError, Refused, choose_exit_code
from schemas.errors import FaultlineError
from schemas.problem import build_problem, clean_text
from schemas.version import VERSION

EPILOG = (
    "Exit codes: 0 pass, warn, or no policy given; 1 the gate failed; 2 inconclusive, or something went wrong; 3 usage, "
    "bad request or configuration; 4 gave up waiting; 5 not authorised, or over quota."
)


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(VERSION, prog_name="faultline")
def faultline() -> None:
    """Audit trained models for the damage that small changes of their weights can do, and gate deployments on it."""


for command in (up, inspect, plan, audit, status, report, verdict, cancel, delete, replay, keys, worker):
    faultline.add_command(command)


def main() -> NoReturn:
    """Run the command line of this process."""
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(int(flush(run(sys.argv[1:]))))


def flush(code: ExitCode) -> ExitCode:
    """Return the exit code, or that of an error when the results cannot be written; the interpreter would choose 120."""
    try:
        sys.stdout.flush()
    except OSError as error:
        silence(sys.stdout.fileno())
        return code if isinstance(error, BrokenPipeError) else ExitCode.INCONCLUSIVE
    return code


def run(arguments: Sequence[str]) -> ExitCode:
    """Run a command line and return its exit code; nothing is raised."""
    try:
        result = faultline.main(list(arguments), prog_name="faultline", standalone_mode=False)
    except click.exceptions.Exit as end:
        return ExitCode.SUCCESS if end.exit_code == 0 else ExitCode.USAGE
    except click.ClickException as error:
        error.show()
        return ExitCode.USAGE
    except (KeyboardInterrupt, click.Abort):
        build_messages().print("Interrupted; an audit that was accepted goes on.")
        return ExitCode.INCONCLUSIVE
    except FaultlineError as error:
        return _show_error(error, as_json="--json" in arguments)
    except Exception as error:  # noqa: BLE001 - whatever it is, the caller's exit code must not be 1: that is the gate's
        return _show_unexpected(error)
    return result if isinstance(result, ExitCode) else ExitCode.SUCCESS


def _show_error(error: FaultlineError, *, as_json: bool) -> ExitCode:
    code = choose_exit_code(error)
    if as_json:
        problem = error.problem if isinstance(error, ProblemError) else build_problem(error)
        write_json(describe_result(error.job if isinstance(error, GaveUp | AuditFailed) else None, code, problem=problem))
    print_error(build_messages(), error)
    if isinstance(error, Refused) and error.problem.status == 401:
        build_messages().print("The key is read from FAULTLINE_KEY, or from the file that --key-file names.")
    return code


def _show_unexpected(error: Exception) -> ExitCode:
    if os.environ.get("FAULTLINE_DEBUG"):
        traceback.print_exception(error)
    what = clean_text(f"{type(error).__name__}: {error}")
    build_messages().print(f"Unexpected error: {what}\nSet FAULTLINE_DEBUG=1 for the traceback.")
    return ExitCode.INCONCLUSIVE


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    """End as Ctrl-C does, so that a service that was started for the call is stopped."""
    raise KeyboardInterrupt
