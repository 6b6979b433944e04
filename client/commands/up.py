"""`faultline up`: a whole service on this machine."""

import os
import sys
from pathlib import Path

import click

from client.embedded import build_command, build_environment, check_installed


@click.command(short_help="Start a service on this machine.")
@click.option(
    "--data-dir", type=click.Path(path_type=Path, file_okay=False), help="Jobs, reports, logs.  [default: faultline-data]"
)
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on; 0 takes a free one.  [default: 8321]")
@click.option("--workers", type=click.IntRange(1, 64), help="How many audits run at once.  [default: 1]")
def up(data_dir: Path | None, port: int | None, workers: int | None) -> None:
    """Start API, worker and store on this machine; Ctrl-C stops all of them, and jobs are there again after a restart."""
    check_installed("faultline up")
    given = {"--data-dir": data_dir, "--port": port, "--workers": workers}
    arguments = [part for name, value in given.items() if value is not None for part in (name, str(value))]
    sys.stdout.flush()
    os.execve(sys.executable, build_command("standalone", *arguments), build_environment())  # noqa: S606 - the service takes over
