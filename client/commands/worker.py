"""`faultline worker`: one worker of a service, or an attack on the sandbox that its audits would run in."""

import os
import sys

import click

from client.embedded import build_command, build_environment, check_installed


@click.command(short_help="Run a worker, or check its sandbox.")
@click.option("--check", is_flag=True, help="Attack the sandbox as a hostile model would, and print what stopped each attack.")
def worker(*, check: bool) -> None:
    """Run one worker of a service; its settings come from the environment, see docs/operations.md."""
    check_installed("faultline worker")
    sys.stdout.flush()
    arguments = ["--check"] if check else []
    os.execve(sys.executable, build_command("worker", *arguments), build_environment())  # noqa: S606 - the worker takes over
