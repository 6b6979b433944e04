"""The data folder of a deployment: one deployment at a time may hold it."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from schemas.errors import Conflict, Fault

LOCK_NAME = "standalone.lock"


class Folder:
    """A data folder that this process holds."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    def write_address(self, url: str) -> None:
        """Note who holds the folder, for the one who tries next."""
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, json.dumps({"pid": os.getpid(), "url": url}).encode(), 0)


@contextmanager
def hold_folder(path: Path) -> Iterator[Folder]:
    """Hold the folder while the block runs; the kernel lets go of it whatever ends this process.

    Yields:
        The folder.

    Raises:
        Conflict: when another deployment holds it, naming where that one answers.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(_describe_holder(path, os.read(descriptor, 4096))) from None
        yield Folder(path, descriptor)
    finally:
        os.close(descriptor)


def _describe_holder(path: Path, content: bytes) -> Fault:
    try:
        holder = json.loads(content)
        got = f"process {holder['pid']} at {holder['url']}"
    except (ValueError, KeyError, TypeError):
        got = "a process that is just starting"
    return Fault(
        what=f"Faultline already runs on the data folder {path}",
        where=str(path),
        got=got,
        advice="use that one, stop it first, or choose another folder with --data-dir",
    )
