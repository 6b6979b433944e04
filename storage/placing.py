"""The last step of every write: a whole, synced file gets its name, and the name survives a power cut."""

import os
from pathlib import Path
from typing import Final

from storage.locks import hold_lock

LOCK: Final = ".lock"
"""Whoever says that a file is used shares it; whoever takes an unused file away holds it alone, and looks again first."""


def place_file(descriptor: int, temporary: Path, target: Path, root: Path) -> bool:
    """Return whether `target`, below `root`, is a new name; `temporary`, open as `descriptor`, has it then.

    A file of the same size that has the name already stays, as used just now; `temporary` is removed then.
    """
    if touch_artifact(target, root, os.fstat(descriptor).st_size):
        temporary.unlink(missing_ok=True)
        return False
    # A file of another size under this name was damaged on the disk; ours is whole.
    os.fsync(descriptor)
    make_folders(target.parent, root)
    os.utime(descriptor)
    temporary.replace(target)
    sync_folder(target.parent)
    return True


def touch_artifact(path: Path, root: Path, size_bytes: int | None = None) -> bool:
    """Note that the file is used now, and tell whether it is there and of that size: then it stays for a grace time."""
    with hold_lock(root / LOCK, shared=True):
        try:
            if size_bytes is not None and path.stat().st_size != size_bytes:
                return False
            os.utime(path)
        except FileNotFoundError:
            return False
        return True


def remove_artifact(path: Path, root: Path, aside: Path, before_ns: int) -> bool:
    """Take the file away unless it was used since, and tell whether it is gone; `aside` is its name for the last moment."""
    with hold_lock(root / LOCK):
        try:
            if path.stat().st_mtime_ns >= before_ns:
                return False
            path.replace(aside)
        except FileNotFoundError:
            return True
    aside.unlink(missing_ok=True)  # of a large file this takes its time, and nobody should wait for the lock
    return True


def replace_text(path: Path, content: str) -> None:
    """Write a small file in one step: a reader finds the old content or the new one."""
    temporary = path.with_suffix(".new")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def make_folders(folder: Path, root: Path) -> None:
    """Make `folder` and its parents below `root`, so that they survive a power cut."""
    if folder == root or folder.is_dir():
        return
    make_folders(folder.parent, root)
    folder.mkdir(mode=0o700, exist_ok=True)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
