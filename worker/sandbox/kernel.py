"""The system calls that Python does not wrap. Linux, by ctypes."""

import ctypes
import os
import platform

PR_SET_PDEATHSIG = 1
PR_SET_SECCOMP = 22
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def call(number: int, *arguments: object) -> int:
    """Return what system call `number` returns.

    Raises:
        OSError: when the kernel refuses.
    """
    passed = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    found: int = _libc.syscall(ctypes.c_long(number), *passed)
    if found < 0:
        number_of_error = ctypes.get_errno()
        raise OSError(number_of_error, os.strerror(number_of_error))
    return found


def control(option: int, value: int = 0, third: int = 0) -> int:
    """Return what prctl returns.

    Raises:
        OSError: when the kernel refuses.
    """
    found: int = _libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(third), ctypes.c_ulong(0), ctypes.c_ulong(0))
    if found < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")
    return found


def find_machine() -> str:
    """Return the processor's name as the kernel gives it: x86_64, aarch64."""
    return platform.machine()
