"""Upload: one artifact while it is written."""

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256 as new_sha256
from pathlib import Path
from types import TracebackType
from typing import Self

from schemas.errors import DigestMismatch, Fault, Unavailable
from storage.placing import place_file


@contextmanager
def reaching_disk(place: Path) -> Iterator[None]:
    """Turn a disk that is full, gone or not ours to write into Unavailable."""
    try:
        yield
    except OSError as error:
        fault = Fault(
            "the artifact store cannot be written",
            where=str(place),
            expected="a folder that can be written and has space left",
            got=error.strerror or type(error).__name__,
            advice="free space on its disk or correct its permissions, then send the file again",
        )
        raise Unavailable(fault) from error


class Upload:
    """Bytes on their way into the store. Blocking, bound to no thread: asynchronous code calls it through threads.

    Leaving its `with` block without `commit` removes what was written, and so does every error.
    """

    def __init__(self, temporary: Path, locate: Callable[[str], Path], root: Path) -> None:
        self._temporary = temporary
        self._locate = locate
        self._root = root
        self._digest = new_sha256()
        self.size_bytes = 0
        with reaching_disk(root):
            self._descriptor: int | None = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def write(self, chunk: bytes) -> None:
        """Append `chunk`.

        Raises:
            Unavailable: when it cannot be written; the upload is over then.

        """
        descriptor = self._check_open()
        left = memoryview(chunk)
        with self._aborting(), reaching_disk(self._root):
            while left:
                left = left[os.write(descriptor, left) :]
        self._digest.update(chunk)
        self.size_bytes += len(chunk)

    def commit(self, expected_sha256: str | None = None) -> str:
        """Return the sha-256, under which the artifact can be read from now on; one that is there already is only touched.

        Raises:
            DigestMismatch: when the bytes are not what was announced.
            Unavailable: when it cannot be written.

        """
        descriptor = self._check_open()
        sha256 = self._digest.hexdigest()
        with self._aborting():
            if expected_sha256 is not None and sha256 != expected_sha256:
                raise DigestMismatch(describe_mismatch(expected_sha256, sha256, self.size_bytes))
            with reaching_disk(self._root):
                place_file(descriptor, self._temporary, self._locate(sha256), self._root)
        self.abort()
        return sha256

    def abort(self) -> None:
        """Remove what was written; harmless after `commit` and when called again."""
        if self._descriptor is None:
            return
        descriptor, self._descriptor = self._descriptor, None
        with contextlib.suppress(OSError):  # what a full disk or network says on closing was said on writing
            os.close(descriptor)
        self._temporary.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.abort()

    def _check_open(self) -> int:
        if self._descriptor is None:
            message = "the upload is over"
            raise ValueError(message)
        return self._descriptor

    @contextmanager
    def _aborting(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.abort()
            raise


def describe_mismatch(expected: str, got: str, size_bytes: int) -> Fault:
    """Return the fault of bytes that are not what was announced."""
    return Fault(
        "the bytes do not have the announced sha-256",
        where="body",
        expected=expected,
        got=f"{got} over {size_bytes} bytes",
        advice="compute the digest over exactly the bytes that are sent and send them again",
    )
