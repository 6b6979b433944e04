"""Namespaces of its own: a process without a network, whatever else fails. Done first, while there is one thread."""

import contextlib
import ctypes
import os
from pathlib import Path

CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWNET = 0x08000000, 0x10000000, 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


def leave_network() -> bool:
    """Move this process into a network and message space that holds nothing; False where the machine does not allow it."""
    user, group = os.geteuid(), os.getegid()
    wanted = CLONE_NEWNET | CLONE_NEWIPC
    if user != 0:  # who is not root needs a user namespace for that, which maps the user to itself
        wanted |= CLONE_NEWUSER
    if _libc.unshare(wanted) != 0:
        return False
    if user != 0:
        with contextlib.suppress(OSError):  # an unmapped user still owns its files
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
            Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    return True
