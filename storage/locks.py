"""Locks on open files: held by one process at a time, and by none that has died."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def try_lock(descriptor: int) -> Iterator[bool]:
    """Hold the file while the block runs, if nobody else holds it.

    Yields:
        Whether it is held.

    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
        return
    try:
        yield True
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
