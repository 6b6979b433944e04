"""Programs that tests of this folder start, and what is left of them."""

import os
import socket
from pathlib import Path


def find_processes(mark: str) -> dict[int, str]:
    """Return pid and command line of every process that names `mark` on its command line or in its environment."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes()
                named = mark.encode() in command or mark.encode() in (entry / "environ").read_bytes()
            except (FileNotFoundError, PermissionError, ProcessLookupError):  # it ended, or is not ours
                continue
            if named and command:
                found[int(entry.name)] = command.replace(b"\0", b" ").decode(errors="replace")
    return found


def find_free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
