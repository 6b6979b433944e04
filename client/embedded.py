"""Starts a whole Faultline service on this machine, for one call or until it is stopped. Needs the extras."""

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from client.errors import BadUsage, Unreachable
from schemas.errors import Fault

READY = "faultline ready at "
START_LIMIT_S = 150.0
STOP_LIMIT_S = 45.0
HELD_FOLDER_CODE = 3
NEEDED = ("fastapi", "uvicorn", "redis", "celery", "torch", "onnx", "onnxruntime")
"""One module of everything that the extras bring."""


def check_installed(what: str, *modules: str) -> None:
    """Check that the parts of Faultline which `what` needs are installed.

    Raises:
        BadUsage: with the command that installs them.

    """
    missing = [name for name in (modules or NEEDED) if importlib.util.find_spec(name) is None]
    if missing:
        advice = 'Install them with: pip install "faultline[service,worker]", or name a running server with --server.'
        raise BadUsage(
            Fault(f"{what} needs parts that are not installed", "", "the service and worker extras", ", ".join(missing), advice)
        )


def build_command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs one of our programs; a folder of the user's by that name is not taken for ours."""
    return [sys.executable, "-P", "-m", module, *arguments]


def build_environment() -> dict[str, str]:
    """Return the environment for our programs: this installation's packages come first, also from a source tree."""
    root = str(Path(__file__).resolve().parent.parent)
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
        "PYTHONUNBUFFERED": "1",
    }


@contextlib.contextmanager
def run_service(data_dir: Path) -> Iterator[str]:
    """Start a service on the data folder and stop it at the end; in a temporary folder when another service holds this one.

    Yields:
        The service's address.

    Raises:
        BadUsage: when the extras are not installed.
        Unreachable: when the service does not start.

    """
    check_installed("an audit on this machine")
    with contextlib.ExitStack() as stack:
        process, log = _start(stack, data_dir)
        address = _wait_for_address(process)
        if address is None and process.poll() == HELD_FOLDER_CODE:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="faultline-", ignore_cleanup_errors=True))
            process, log = _start(stack, Path(folder))
            address = _wait_for_address(process)
        if address is None:
            log.seek(0)
            got = log.read()[-2000:].strip() or f"it ended with {process.poll()}"
            raise Unreachable(
                Fault("the service on this machine did not start", str(data_dir), "its ready line", got, "See its logs folder.")
            )
        yield address


def _start(stack: contextlib.ExitStack, data_dir: Path) -> tuple[subprocess.Popen[str], IO[str]]:
    _make_folder(data_dir)
    log = stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace"))  # noqa: SIM115 - the stack closes it
    # In a session of its own: Ctrl-C reaches this process, which then stops the service in order.
    process = subprocess.Popen(
        [*_find_tether(), *build_command("standalone", "--data-dir", str(data_dir), "--port", "0")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        env=build_environment(),
        start_new_session=True,
    )
    stack.callback(_stop, process)
    return process, log


def _find_tether() -> list[str]:
    """Return the command prefix that lets the service die with this process, however this process ends."""
    found = importlib.util.find_spec("standalone")
    for folder in (found.submodule_search_locations or ()) if found is not None else ():
        tether = Path(folder) / "tether.py"
        if tether.is_file() and sys.platform == "linux":
            return [sys.executable, "-I", "-S", str(tether), str(os.getpid())]
    return []


def _make_folder(data_dir: Path) -> None:
    """Make the folder, invisible to version control."""
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        ignore = data_dir / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n", encoding="utf-8")
    except OSError as error:
        got = error.strerror or type(error).__name__
        raise BadUsage(
            Fault("the data folder cannot be made", str(data_dir), "a folder to write into", got, "Choose one with --data-dir.")
        ) from error


def _wait_for_address(process: subprocess.Popen[str]) -> str | None:
    """Return the address of the ready line; None when the service ended or took too long before it."""
    lines = process.stdout
    if lines is None:
        return None
    timer = threading.Timer(START_LIMIT_S, process.kill)
    timer.start()
    try:
        for line in lines:
            if line.startswith(READY):
                return line.removeprefix(READY).strip()
        process.wait()
        return None
    finally:
        timer.cancel()


def _stop(process: subprocess.Popen[str]) -> None:
    """Ask the service to stop, and end it when it does not."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
