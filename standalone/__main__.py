"""`python -m standalone`: store, API and worker in one command, for a laptop or one machine."""

import argparse
import os
import signal
import socket
import sys
from pathlib import Path

from schemas.errors import Conflict, Fault, FaultlineError, InvalidRequest
from standalone.deployment import Deployment
from standalone.folder import hold_folder
from standalone.plan import HOST, Plan
from storage.embedded import EmbeddedStore, find_server

DEFAULT_PORT = "8321"
FAILED, BAD_USAGE = 2, 3


class _Parser(argparse.ArgumentParser):
    """Exits with 3 on bad usage: 2 means inconclusive to the CI jobs that call Faultline."""

    def error(self, message: str) -> None:  # type: ignore[override]
        self.print_usage(sys.stderr)
        self.exit(BAD_USAGE, f"{self.prog}: {message}\n")


def main(arguments: list[str] | None = None) -> int:
    """Run the deployment until SIGINT, SIGTERM or SIGHUP."""
    given = _parse(arguments)
    try:
        with hold_folder(given.data_dir.resolve()) as folder, _listen(given.port) as listener:
            folder.write_address(_url(listener))
            return _run(given.workers, folder.path, listener)
    except (Conflict, InvalidRequest) as error:
        return _complain(error, BAD_USAGE)
    except FaultlineError as error:
        return _complain(error, FAILED)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = _Parser(prog="python -m standalone", description=__doc__)
    default_folder = Path(os.environ.get("FAULTLINE_DATA_DIR", "faultline-data"))
    parser.add_argument("--data-dir", type=Path, default=default_folder, help="jobs, reports, logs (default: %(default)s)")
    parser.add_argument("--port", type=int, default=os.environ.get("FAULTLINE_PORT", DEFAULT_PORT), help="0 takes a free one")
    parser.add_argument("--workers", type=int, default=1, help="how many audits run at once (default: %(default)s)")
    given = parser.parse_args(arguments)
    if not 0 <= given.port < 2**16:
        parser.error(f"--port must be from 0 to 65535, got {given.port}")
    if not 1 <= given.workers <= 64:
        parser.error(f"--workers must be from 1 to 64, got {given.workers}")
    return given


def _run(workers: int, folder: Path, listener: socket.socket) -> int:
    requests: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: requests.append(number))
    plan = Plan(folder, workers, listener.fileno(), dict(os.environ), _find_store(folder))
    deployment = Deployment(plan, listener.getsockname()[1], lambda: len(requests))
    deployment.run(lambda: _announce(_url(listener)))
    return 0


def _find_store(folder: Path) -> EmbeddedStore | None:
    return None if os.environ.get("REDIS_URL") else EmbeddedStore(find_server(), folder / "store")


def _announce(url: str) -> None:
    sys.stdout.write(f"faultline ready at {url}\n")
    sys.stdout.flush()


def _listen(port: int) -> socket.socket:
    """Return a listening socket, held here so that it outlives restarts of the API: callers wait instead of failing.

    Raises:
        Conflict: when the port is taken.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Inherited by every connection; uvicorn, given a descriptor, does not set it itself.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        listener.bind((HOST, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        fault = Fault(
            what=f"port {port} cannot be used: {error.strerror}", where="--port", advice="choose another port; 0 takes a free one"
        )
        raise Conflict(fault) from None
    return listener


def _url(listener: socket.socket) -> str:
    return f"http://{HOST}:{listener.getsockname()[1]}"


def _complain(error: FaultlineError, code: int) -> int:
    for fault in error.faults:
        sys.stderr.write(
            f"faultline: {fault.what}"
            + (f" ({fault.got})" if fault.got else "")
            + (f"; {fault.advice}" if fault.advice else "")
            + "\n"
        )
    return code


if __name__ == "__main__":
    sys.exit(main())
