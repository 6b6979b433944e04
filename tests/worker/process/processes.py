"""What runs on this machine, as /proc has it."""

import os
import time
from collections.abc import Callable
from pathlib import Path


def is_running(pid: int) -> bool:
    """Tell whether the process exists and is no zombie."""
    try:
        content = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return content[content.rindex(b")") + 2 :].split()[0] not in {b"Z", b"X"}


def find_processes(mark: str) -> dict[int, str]:
    """Return the processes whose command line or environment holds `mark`, such as a test's own folder; not this one."""
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            environment = (folder / "environ").read_bytes().decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if (mark in command or mark in environment) and is_running(int(folder.name)):
            found[int(folder.name)] = command
    return found


def find_children(pid: int) -> list[int]:
    """Return the living children of a process."""
    children = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            content = (folder / "stat").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        state, parent = content[content.rindex(b")") + 2 :].split()[:2]
        if int(parent) == pid and state not in {b"Z", b"X"}:
            children.append(int(folder.name))
    return children


def eventually(holds: Callable[[], bool], within_s: float = 10.0) -> None:
    """Return once `holds` is true; fail when it is not in time."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)
