"""What runs on this machine, as /proc tells."""

import os
from pathlib import Path


def list_processes() -> dict[int, int]:
    """Return the living processes with their parents."""
    found = {}
    for folder in Path("/proc").iterdir():
        try:
            content = (folder / "stat").read_bytes() if folder.name.isdigit() else b""
        except (FileNotFoundError, ProcessLookupError):
            continue
        if content:
            state, parent = content[content.rindex(b")") + 2 :].split()[:2]
            if state != b"Z":
                found[int(folder.name)] = int(parent)
    return found


def find_children(pid: int | None) -> list[int]:
    """Return the living children of a process."""
    return [child for child, parent in list_processes().items() if parent == pid]


def count_marked(mark: str) -> int:
    """Return how many other processes have `mark` in their command line or environment."""
    count = 0
    for pid in list_processes():
        try:
            content = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        count += mark.encode() in content and pid != os.getpid()
    return count


def is_auditing(pid: int) -> bool:
    """Tell whether an audit process has begun its job: it then offers itself to the memory killer."""
    try:
        return Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == "1000"
    except (FileNotFoundError, ProcessLookupError):
        return False
