"""Locks on files: held by processes, and by none that has died."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from schemas.errors import Fault, Unavailable

PATIENCE_S: Final = 5.0
PAUSE_S: Final = 0.005


@contextmanager
def try_lock(descriptor: int, operation: int = fcntl.LOCK_EX) -> Iterator[bool]:
    """Hold the file while the block runs, if nobody else holds it.

    Yields:
        Whether it is held.

    """
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
        return
    try:
        yield True
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


@contextmanager
def hold_lock(path: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold a lock file while the block runs, alone or with others who share it.

    Raises:
        Unavailable: when somebody else does not let go of it; a process that was stopped may hold it.

    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            with try_lock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX) as is_held:
                if is_held:
                    yield
                    return
            if time.monotonic() > deadline:
                advice = "look for a worker or API process that was stopped and not killed"
                what = "another process holds the artifact store"
                raise Unavailable(Fault(what, str(path), f"its lock within {PATIENCE_S:g} s", "none", advice))
            time.sleep(PAUSE_S)
    finally:
        os.close(descriptor)
