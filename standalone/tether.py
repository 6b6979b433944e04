"""Run a command that dies with its parent: `python -I -S tether.py PARENT_PID COMMAND ...`. Linux, standard library only."""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
PARENT_GONE = 1


def main() -> None:
    """Ask the kernel for the signal, see that the parent still lives, and become the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    # A parent that died before the call never sends the signal; the request itself outlives the exec.
    if os.getppid() != parent:
        sys.exit(PARENT_GONE)
    os.execvp(command[0], command)  # noqa: S606 - the caller's argument list is the whole point


if __name__ == "__main__":
    main()
