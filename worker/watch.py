"""What the supervisor sees of the audit process from outside, through /proc. Linux only."""

import os
import stat
from collections.abc import Mapping
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")
FILTERED = "2"
_PROCESS_GROUP, _RESIDENT = 2, 21  # fields of /proc/<pid>/stat, counted after the process name


def measure_group_bytes(group: int) -> int:
    """Return the resident memory of every process in the group together, in bytes."""
    return sum(int(fields[_RESIDENT]) * PAGE for fields in _read_stats() if int(fields[_PROCESS_GROUP]) == group)


def _read_stats() -> list[list[bytes]]:
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            content = (folder / "stat").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended between the listing and the reading
        # The process name stands in parentheses and may itself hold spaces and parentheses.
        found.append(content[content.rindex(b")") + 2 :].split())
    return found


def measure_folder_bytes(folder: Path) -> int:
    """Return the size of all files below the folder together, in bytes; links are not followed."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_size  # noqa: PTH118 - joins nothing that is opened
            except FileNotFoundError:
                continue  # deleted between the listing and the reading
    return total


def count_memory_kills() -> int:
    """Return how many processes the kernel has ended on this machine because memory ran out."""
    for line in Path("/proc/vmstat").read_text().splitlines():
        name, _, value = line.partition(" ")
        if name == "oom_kill":
            return int(value)
    return 0


def observe_layers(pid: int, told: Mapping[str, bool]) -> dict[str, bool]:
    """Return the confinement of the process as the kernel reports it.

    Of Landlock and namespaces it reports nothing to us: there the process's word counts, given before it read anything.
    """
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
    data = next(line for line in limits if line.startswith("Max data size"))
    seen = {
        "no_new_privileges": status.get("NoNewPrivs", "0").strip() == "1",
        "rlimits": "unlimited" not in data,
        "capabilities": all(int(status.get(name, "1"), 16) == 0 for name in ("CapPrm", "CapEff", "CapInh", "CapAmb")),
        "seccomp": status.get("Seccomp", "0").strip() == FILTERED,
    }
    return {**told, **seen}


def check_plain_file(path: Path) -> int:
    """Return the size of a regular file with one name.

    Raises:
        ValueError: when it is a link, has a second name, is no file, or is not there.
    """
    try:
        found = os.lstat(path)
    except OSError as error:
        message = f"{path.name}: {error.strerror}"
        raise ValueError(message) from None
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        message = f"{path.name} is no plain file"
        raise ValueError(message)
    return found.st_size
