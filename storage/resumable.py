"""Resumable uploads: bytes that arrive in several requests, at any process of the API, whichever of them die.

OWNER/ID.part below the folder holds the bytes and its size is the offset; OWNER/ID.json beside it says what was announced.
Nobody holds a lock while waiting for a client: each block is written under one, if the file still has the size that its
writer counts on. So of two writers one is refused, and a request that hangs keeps nobody from resuming.
"""

import contextlib
import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

from schemas.errors import Conflict, DigestMismatch, Fault, NotFound
from storage.artifacts import BLOCK_BYTES, FileArtifactStore, name_folder
from storage.locks import try_lock
from storage.placing import make_folders, replace_text
from storage.uploads import describe_mismatch, reaching_disk

UPLOADS: Final = ".uploads"
NOTE: Final = ".json"
UPLOAD_ID: Final = re.compile(r"[0-9a-f]{32}")
PATIENCE_S: Final = 1.0
PAUSE_S: Final = 0.005


class OffsetConflict(Conflict):
    """The bytes do not continue what is there; `offset` is where they would."""

    def __init__(self, offset: int, fault: Fault) -> None:
        self.offset = offset
        super().__init__(fault)


@dataclass(frozen=True)
class Progress:
    """How far an upload is. `announced` is the digest that it must have; `sha256` that of the artifact that it became."""

    id: str
    length_bytes: int
    announced: str | None
    offset: int
    sha256: str | None = None


class Completed(NamedTuple):
    """The artifact that an upload became, and whether the owner had none of that digest before."""

    sha256: str
    size_bytes: int
    is_new: bool


class ResumableUploads:
    """The unfinished uploads of all owners. Threads and processes may share the folder, which lies beside the artifacts."""

    def __init__(self, root: Path, artifacts: FileArtifactStore) -> None:
        self._root = root
        self._artifacts = artifacts

    def create(self, owner: str, length_bytes: int, announced: str | None) -> Progress:
        """Return a new upload of so many bytes.

        Raises:
            Unavailable: when nothing can be written.

        """
        id = secrets.token_hex(16)
        part = self._locate(owner, id)
        with reaching_disk(self._root):
            make_folders(part.parent, self._root)
            os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            _write_note(part, length_bytes, announced, None)
        return Progress(id, length_bytes, announced, 0)

    def find(self, owner: str, id: str) -> Progress | None:
        """Return how far the upload is, by what is certainly on the disk; None if the owner has none of this id."""
        if not UPLOAD_ID.fullmatch(id):
            return None
        part = self._locate(owner, id)
        offset = _measure(part, self._root)  # before the note: a finished upload is noted as such before its part goes
        note = _read_note(part)
        if note is None:
            return None
        length_bytes, announced, sealed = note
        with contextlib.suppress(FileNotFoundError):
            os.utime(part.with_suffix(NOTE))  # who asks means to go on
        if offset is not None:
            return Progress(id, length_bytes, announced, offset)
        if sealed is None or self._artifacts.size(owner, sealed) != length_bytes:
            return None
        return Progress(id, length_bytes, announced, length_bytes, sealed)

    def open(self, owner: str, progress: Progress) -> "Part":
        """Return the upload, open for bytes that continue it at `progress.offset`.

        Raises:
            NotFound: when it was given up or has ended meanwhile.
            Unavailable: when it cannot be opened.

        """
        return Part(self._locate(owner, progress.id), progress, self._root)

    def complete(self, owner: str, progress: Progress) -> Completed:
        """Return the artifact that an upload becomes when all of it is there.

        Raises:
            DigestMismatch: when the bytes are not what was announced; they are gone then.
            OffsetConflict: when bytes are missing, or another process is just doing this.
            NotFound: when it was given up or has ended meanwhile.
            Unavailable: when the disk fails.

        """
        path = self._locate(owner, progress.id)
        with Part(path, progress, self._root) as part, reaching_disk(self._root), part.held():
            part.check_offset(progress.length_bytes)
            sha256 = part.hash()
            if progress.announced is not None and sha256 != progress.announced:
                _remove(path)
                raise DigestMismatch(describe_mismatch(progress.announced, sha256, progress.length_bytes))
            # A crash after this line leaves a part that is completed again, or an artifact that this note names.
            _write_note(path, progress.length_bytes, progress.announced, sha256)
            is_new = self._artifacts.adopt(owner, sha256, part.descriptor, path)
        return Completed(sha256, progress.length_bytes, is_new)

    def abandon(self, owner: str, id: str) -> bool:
        """Remove the upload, whoever writes to it; False if the owner has none of this id."""
        if not UPLOAD_ID.fullmatch(id):
            return False
        with reaching_disk(self._root):
            return _remove(self._locate(owner, id))

    def sum_announced(self, owner: str) -> int:
        """Return the lengths of the owner's unfinished uploads together."""
        parts = (self._root / UPLOADS / name_folder(owner)).glob("*.part")
        return sum(note[0] for note in map(_read_note, parts) if note is not None)

    def expire(self, before_s: float) -> int:
        """Return how many uploads, and notes of finished ones, were removed: those that nobody has asked for since.

        Raises:
            Unavailable: when the disk fails.

        """
        with reaching_disk(self._root):
            stems = {path.with_suffix(".part") for path in (self._root / UPLOADS).glob("*/*")}
            return sum(_expire(part, before_s) for part in stems)

    def _locate(self, owner: str, id: str) -> Path:
        return self._root / UPLOADS / name_folder(owner) / f"{id}.part"


class Part:
    """One writer of an upload. Blocking, bound to no thread: asynchronous code calls it through threads."""

    def __init__(self, path: Path, progress: Progress, root: Path) -> None:
        self._id = progress.id
        self._length_bytes = progress.length_bytes
        self._root = root
        self.offset = progress.offset
        with reaching_disk(root):
            try:
                self.descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
            except FileNotFoundError:
                raise NotFound(describe_absent(progress.id)) from None

    def write(self, block: bytes) -> None:
        """Append `block`.

        Raises:
            OffsetConflict: when another writer has appended meanwhile.
            NotFound: when the upload was given up meanwhile.
            Unavailable: when it cannot be written; what was written counts.
            ValueError: when it leads beyond the length.

        """
        if self.offset + len(block) > self._length_bytes:
            message = f"{len(block)} bytes at {self.offset} lead beyond {self._length_bytes}"
            raise ValueError(message)
        left = memoryview(block)
        with reaching_disk(self._root), self.held():
            self.check_offset(self.offset)
            while left:
                written = os.write(self.descriptor, left)
                self.offset += written
                left = left[written:]

    def sync(self) -> None:
        """Bring what was written to the disk.

        Raises:
            Unavailable: when the disk fails.

        """
        with reaching_disk(self._root):
            os.fdatasync(self.descriptor)

    def hash(self) -> str:
        """Return the sha-256 of all that is there."""
        digest, at = hashlib.sha256(), 0
        while block := os.pread(self.descriptor, BLOCK_BYTES, at):
            digest.update(block)
            at += len(block)
        return digest.hexdigest()

    def check_offset(self, expected: int) -> None:
        """Check, under the lock, that the upload is still there and has this size."""
        found = os.fstat(self.descriptor)
        if found.st_nlink == 0:
            raise NotFound(describe_absent(self._id))
        if found.st_size != expected:
            raise OffsetConflict(found.st_size, describe_offset(found.st_size, expected))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the upload while the block runs; others hold it for the time of a write, or of the last look at all of it."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            with try_lock(self.descriptor) as is_held:
                if is_held:
                    yield
                    return
            if time.monotonic() > deadline:
                what, advice = "another request is just completing the upload", "Ask how it stands in a moment."
                fault = Fault(what, "path: upload_id", "one request at a time", "two", advice)
                raise OffsetConflict(os.fstat(self.descriptor).st_size, fault)
            time.sleep(PAUSE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self.descriptor)


def describe_absent(id: str) -> Fault:
    """Return the fault of an id that names no upload."""
    advice = "Begin anew with POST /v1/uploads."
    return Fault("there is no such upload", "path: upload_id", "the id of an upload that has not expired", id, advice)


def describe_offset(offset: int, given: int) -> Fault:
    """Return the fault of bytes that do not continue what is there."""
    advice = "Go on at the Upload-Offset of this answer."
    return Fault("the bytes do not continue the upload", "header: Upload-Offset", str(offset), str(given), advice)


def _measure(part: Path, root: Path) -> int | None:
    """Return the size of the part once it is on the disk, None if there is no part."""
    with reaching_disk(root):
        try:
            with part.open("rb") as file:
                offset = os.fstat(file.fileno()).st_size
                os.fdatasync(file.fileno())
                return offset
        except FileNotFoundError:
            return None


def _write_note(part: Path, length_bytes: int, announced: str | None, sealed: str | None) -> None:
    note = {"length_bytes": length_bytes, "announced": announced, "sealed": sealed}
    replace_text(part.with_suffix(NOTE), json.dumps(note))


def _read_note(part: Path) -> tuple[int, str | None, str | None] | None:
    try:
        note = json.loads(part.with_suffix(NOTE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return note["length_bytes"], note["announced"], note["sealed"]


def _expire(part: Path, before_s: float) -> bool:
    files = [part, part.with_suffix(NOTE), part.with_suffix(".new")]
    with contextlib.suppress(FileNotFoundError), part.open("rb") as file, try_lock(file.fileno()) as is_held:
        if not is_held or os.fstat(file.fileno()).st_mtime >= before_s:
            return False
    times = [path.stat().st_mtime for path in files if path.exists()]
    if not times or max(times) >= before_s:
        return False
    for path in reversed(files):
        path.unlink(missing_ok=True)
    return True


def _remove(part: Path) -> bool:
    """Remove an upload; a writer that has it open finds out by its next block."""
    note = part.with_suffix(NOTE)
    existed = note.exists()
    note.unlink(missing_ok=True)
    part.unlink(missing_ok=True)
    return existed
