"""Artifacts: models, data, reports and counterexamples, per owner, named by their sha-256.

A file is written aside, synced and renamed, so that whatever `path` returns is complete and has the digest of its name.
"""

import contextlib
import logging
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from hashlib import sha256 as new_sha256
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from schemas.base import compute_sha256
from schemas.errors import Fault, WorkerFault
from storage.placing import place_file, remove_artifact, touch_artifact
from storage.uploads import Upload, reaching_disk

logger = logging.getLogger("faultline.storage")

BLOCK_BYTES: Final = 1024 * 1024
ABANDONED_S: Final = 3600.0
INCOMING: Final = ".incoming"
TRASH: Final = ".trash"
CLOCK: Final = ".clock"
SHA256: Final = re.compile(r"[0-9a-f]{64}")
PLAIN_OWNER: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


class ArtifactStore(Protocol):
    """Where artifacts are kept. An owner sees its own only; a digest gives no access to another's."""

    def path(self, owner: str, sha256: str) -> Path | None:
        """Return a local file with the artifact, None if the owner has none of that digest."""

    def size(self, owner: str, sha256: str) -> int | None:
        """Return the artifact's size in bytes, None if the owner has none of that digest."""

    def touch(self, owner: str, sha256: str) -> int | None:
        """Note that the artifact is used now; return its size in bytes, None if the owner has none of that digest."""

    def open(self, owner: str, sha256: str) -> BinaryIO | None:
        """Return the open artifact, None if the owner has none of that digest."""

    def begin(self, owner: str) -> Upload:
        """Begin a new artifact."""

    def put_bytes(self, owner: str, content: bytes) -> str:
        """Store `content` and return its sha-256."""

    def put_file(self, owner: str, path: Path) -> str:
        """Store a copy of the file and return its sha-256."""


class FileArtifactStore:
    """Artifacts in the folder `root`: OWNER/ab/abcd..., and .incoming for what is being written. Threads may share one."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._incoming = root / INCOMING
        self._trash = root / TRASH
        with reaching_disk(root):
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._incoming.mkdir(mode=0o700, exist_ok=True)
            self._trash.mkdir(mode=0o700, exist_ok=True)
        remove_abandoned(self._incoming, time.time() - ABANDONED_S)

    def path(self, owner: str, sha256: str) -> Path | None:
        """Return the artifact's file, None if the owner has none of that digest."""
        if not SHA256.fullmatch(sha256):
            return None
        path = self._locate(owner, sha256)
        return path if path.is_file() else None

    def size(self, owner: str, sha256: str) -> int | None:
        """Return the artifact's size in bytes, None if the owner has none of that digest."""
        path = self.path(owner, sha256)
        return None if path is None else path.stat().st_size

    def touch(self, owner: str, sha256: str) -> int | None:
        """Note that the artifact is used now; return its size in bytes, None if the owner has none of that digest."""
        path = self.path(owner, sha256)
        with reaching_disk(self._root):
            return path.stat().st_size if path is not None and touch_artifact(path, self._root) else None

    def open(self, owner: str, sha256: str) -> BinaryIO | None:
        """Return the open artifact, None if the owner has none of that digest."""
        path = self.path(owner, sha256)
        return None if path is None else path.open("rb")

    def begin(self, owner: str) -> Upload:
        """Return a new artifact to write to; nothing of it is seen before `commit`.

        Raises:
            Unavailable: when nothing can be written.

        """
        return Upload(self._incoming / secrets.token_hex(16), lambda sha256: self._locate(owner, sha256), self._root)

    def put_bytes(self, owner: str, content: bytes) -> str:
        """Return the sha-256 of `content`, which is stored then.

        Raises:
            Unavailable: when it cannot be written; nothing is left behind then.

        """
        with self.begin(owner) as upload:
            upload.write(content)
            return upload.commit(compute_sha256(content))

    def put_file(self, owner: str, path: Path) -> str:
        """Return the sha-256 of the file, of which a copy is stored then.

        Raises:
            WorkerFault: when `path` is a link or anything else than a file: who wrote it may not be trusted.
            Unavailable: when it cannot be written; nothing is left behind then.

        """
        with _open_plain(path) as source, self.begin(owner) as upload:
            while block := source.read(BLOCK_BYTES):
                upload.write(block)
            return upload.commit()

    def adopt(self, owner: str, sha256: str, descriptor: int, path: Path) -> bool:
        """Return whether the owner had none of this digest; the whole file at `path`, open as `descriptor`, is the artifact then.

        Raises:
            Unavailable: when the disk fails.

        """
        with reaching_disk(self._root):
            return place_file(descriptor, path, self._locate(owner, sha256), self._root)

    def read_clock_ns(self) -> int:
        """Return the time as it would stand in a file that was touched now: the store's own clock, wherever its disk is.

        Raises:
            Unavailable: when the disk fails.

        """
        path = self._root / CLOCK
        with reaching_disk(self._root):
            path.touch(mode=0o600)
            return path.stat().st_mtime_ns

    def remove(self, owner: str, sha256: str, before_ns: int) -> bool:
        """Return whether the artifact is gone: it is removed unless it was used since.

        Raises:
            Unavailable: when the disk fails.

        """
        if not SHA256.fullmatch(sha256):
            return True
        return self.remove_file(self._locate(owner, sha256), before_ns)

    def remove_file(self, path: Path, before_ns: int) -> bool:
        """Return whether one of the files that `walk` gave is gone: it is removed unless it was used since.

        Raises:
            Unavailable: when the disk fails.

        """
        with reaching_disk(self._root):
            return remove_artifact(path, self._root, self._trash / secrets.token_hex(16), before_ns)

    def walk(self, owner: str | None = None) -> Iterator[tuple[str, os.DirEntry[str]]]:
        """Yield the artifacts of one owner or all, each with its owner's folder's name."""
        names = [name_folder(owner)] if owner is not None else [name for name in _list_folder(self._root) if name[0] != "."]
        for name in names:
            for shelf in _list_folder(self._root / name):
                with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(self._root / name / shelf) as entries:
                    yield from ((name, entry) for entry in entries if SHA256.fullmatch(entry.name))

    def sum_sizes(self, owner: str) -> int:
        """Return the bytes of all of the owner's artifacts."""
        total = 0
        for _, entry in self.walk(owner):
            with contextlib.suppress(FileNotFoundError):
                total += entry.stat().st_size
        return total

    def remove_leftovers(self) -> None:
        """Remove what crashed writers and removers left."""
        with reaching_disk(self._root):
            remove_abandoned(self._incoming, time.time() - ABANDONED_S)
            remove_abandoned(self._trash, time.time() - ABANDONED_S)

    def _locate(self, owner: str, sha256: str) -> Path:
        return self._root / name_folder(owner) / sha256[:2] / sha256


def name_folder(owner: str) -> str:
    """Return the name of the owner's folder."""
    # An owner whose name could be no folder's, or another owner's in other letters, gets its name's digest.
    return owner if PLAIN_OWNER.fullmatch(owner) else f"~{new_sha256(owner.encode()).hexdigest()}"


def _list_folder(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []


def remove_abandoned(folder: Path, before: float) -> list[Path]:
    """Remove files that nobody has written to since `before` (seconds since 1970): their writers have crashed."""
    removed = []
    for path in folder.iterdir():
        try:
            if path.stat().st_mtime < before:
                path.unlink()
                removed.append(path)
        except FileNotFoundError:  # its writer or another process was quicker
            continue
    if removed:
        logger.info("removed %d unfinished artifacts in %s", len(removed), folder)
    return removed


def _open_plain(path: Path) -> BinaryIO:
    """Open a file that may be a trap: no link is followed, no pipe is waited for."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise WorkerFault(_describe_trap(path, error.strerror or "cannot be opened")) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise WorkerFault(_describe_trap(path, "is not a regular file"))
    return os.fdopen(descriptor, "rb", buffering=0)


def _describe_trap(path: Path, got: str) -> Fault:
    return Fault("the file to be stored cannot be used", where=path.name, expected="a regular file, not a link", got=got)
