"""Finds the server that a command speaks with: the one that was named, the one that runs here, or one for the call."""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from client.api import Client
from client.embedded import run_service
from client.errors import BadUsage
from client.transport import is_local
from schemas.errors import Fault

if sys.platform != "win32":
    import fcntl

LOCK_NAME = "standalone.lock"
UP_FOLDER = "faultline-data"
"""Where `faultline up` keeps its data unless told otherwise; its lock names the address."""
CALL_FOLDER = ".faultline"
"""Where a service that is started for one call keeps its data."""


class Where(NamedTuple):
    """What the command line says about the server. `server` is None when neither option nor environment names one."""

    server: str | None
    key: str | None
    data_dir: Path | None


class Connected(NamedTuple):
    """A client, and whether its server lives only as long as this call."""

    client: Client
    for_this_call: bool


@contextlib.contextmanager
def connect(where: Where, tell: Callable[[str], None], *, may_start: bool) -> Iterator[Connected]:
    """Give a client for the server; one that is started for the call is stopped at the end.

    Args:
        where: the server and folder that were named.
        tell: takes a sentence about the server that was found or is started.
        may_start: whether an empty service is of use; without it one is started only on a folder with earlier audits.

    Yields:
        The client.

    Raises:
        BadUsage: when there is no server and none can be started.

    """
    address = where.server or _find_running(where.data_dir or Path(os.environ.get("FAULTLINE_DATA_DIR", UP_FOLDER)))
    if address is not None:
        if where.server is None:
            tell(f"Using the service that runs at {address}")
        with Client(address, where.key) as client:
            yield Connected(client, for_this_call=False)
        return
    folder = where.data_dir or Path(CALL_FOLDER)
    if not may_start and not folder.is_dir():
        advice = "Name it with --server or FAULTLINE_URL, or start one with: faultline up"
        raise BadUsage(Fault("no server is named and none runs here", "--server", "http://host:port", "nothing", advice))
    tell(f"Starting a service for this call (data in {folder})")
    with run_service(folder) as started, Client(started) as client:
        yield Connected(client, for_this_call=True)


def _find_running(folder: Path) -> str | None:
    """Return the address of the service that holds the folder."""
    if sys.platform == "win32":  # services do not run there, clients do
        return None
    try:
        descriptor = os.open(folder / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # no service ever ran here
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read_address(os.read(descriptor, 4096))
    finally:
        os.close(descriptor)
    return None


def _read_address(content: bytes) -> str | None:
    try:
        address = json.loads(content)["url"]
    except (ValueError, KeyError, TypeError):  # it has just started and not written its address yet
        return None
    # The folder may be a stranger's, and a key goes to where it says: services that are found so are on this machine.
    return str(address) if is_local(str(address)) else None
