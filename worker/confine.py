"""What the audit process gives up before it opens a model. Linux, standard library only.

The layers are applied in this order, in the process itself, after everything is imported and before
anything of the job is read: death with the parent, resource limits, no new privileges. Landlock and
seccomp belong at the end of `confine`.
"""

import contextlib
import ctypes
import os
import resource
import signal
from dataclasses import dataclass
from pathlib import Path

from worker.engine.shortage import read_data_bytes

PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38
OPEN_FILES = 1024

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Limits:
    """Upper bounds in bytes: memory that the audit may allocate, size of each file that it writes."""

    memory_bytes: int
    file_bytes: int


def tie_to_parent(parent: int) -> bool:
    """Return whether this process will die with the thread that started it; False when that one is gone already.

    The check comes after the call: a parent that died before it would never send the signal.
    """
    _control(PR_SET_PDEATHSIG, signal.SIGKILL)
    return os.getppid() == parent


def confine(limits: Limits) -> None:
    """Give up every means that reading and running a model does not need."""
    _limit_resources(limits)
    _prefer_for_the_memory_killer()
    _control(PR_SET_NO_NEW_PRIVS, 1)


def _limit_resources(limits: Limits) -> None:
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_NOFILE, OPEN_FILES)
    _lower(resource.RLIMIT_FSIZE, limits.file_bytes)
    # Data and not address space: accelerator drivers reserve far more addresses than they use. The imports are not the job's.
    _lower(resource.RLIMIT_DATA, read_data_bytes() + limits.memory_bytes)


def _lower(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (bound, bound))


def _prefer_for_the_memory_killer() -> None:
    # When the machine runs out of memory the kernel should end the audit, not the worker or the store.
    # A wish and no layer: where it cannot be written, the audit goes on.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _control(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")
