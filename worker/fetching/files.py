"""Files below the operator's folders: walked from the folder down, no link followed, nothing but plain files opened."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, Final

from schemas.errors import Fault, FetchFailed, FetchRefused

CHUNK_BYTES: Final = 1024 * 1024
FOLDER: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
ON_THE_WAY: Final = {errno.ELOOP, errno.ENOTDIR}


@dataclass(frozen=True)
class LocalFile:
    """An open file."""

    file: BinaryIO
    length: int

    def read_chunks(self) -> Iterator[bytes]:
        """Yield its bytes."""
        while chunk := self.file.read(CHUNK_BYTES):
            yield chunk


@contextmanager
def open_beneath(root: str, path: str) -> Iterator[LocalFile]:
    """Yield the file `path`, which lies below `root`, open.

    Raises:
        FetchRefused: when a part of the way is a link, or the end is no plain file.
        FetchFailed: when it is not there or must not be read.
    """
    try:
        descriptor = _walk(root, path.removeprefix(root.rstrip("/")).strip("/").split("/"))
    except OSError as error:
        if error.errno in ON_THE_WAY:
            what = "a part of the path is a link or no folder; links are not followed"
            raise FetchRefused(Fault(what, "", "folders and, at the end, a file", path)) from None
        raise FetchFailed(
            Fault("the file cannot be opened", "", "a file that the workers may read", error.strerror or "")
        ) from None
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise FetchRefused(Fault("it is no plain file", "", "a file; pack a folder into one archive", path))
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        yield LocalFile(file, found.st_size)


def _walk(root: str, parts: list[str]) -> int:
    """Return a descriptor of the file, reached by one step after the other, so that nobody can swap a folder for a link."""
    folder = os.open(root, FOLDER)
    try:
        for part in parts[:-1]:
            inner = os.open(part, FOLDER | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = inner
        # Not blocking: a named pipe would keep us waiting for a writer.
        return os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    finally:
        os.close(folder)
