"""Scratch: the private folders of audit processes, and what dead workers left of theirs."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK_NAME = "lock"


class Scratch:
    """This worker's folder below `root`. A lock on a file in it says that its worker lives.

    The kernel drops a dead worker's lock, whatever killed it; process ids would be reused.
    """

    def __init__(self, root: Path, worker: str) -> None:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder = root.resolve() / worker
        with _alone(root):
            remove_leftovers(root)
            self.folder.mkdir(mode=0o700)
            self._lock = _try_lock(self.folder / LOCK_NAME)

    def close(self) -> None:
        """Remove the folder."""
        with _alone(self.folder.parent):
            shutil.rmtree(self.folder, ignore_errors=True)
            if self._lock is not None:
                os.close(self._lock)


def remove_leftovers(root: Path) -> None:
    """Remove the folders of workers that are dead."""
    for folder in root.iterdir():
        if not folder.is_dir():
            continue
        lock = _try_lock(folder / LOCK_NAME)
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Keep other workers from looking while a folder exists and its lock does not yet."""
    descriptor = os.open(root / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _try_lock(path: Path) -> int | None:
    """Return a descriptor that holds the lock, None when another process has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
