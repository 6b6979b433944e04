"""From the references of a request to artifacts of its owner: fetched once, hashed while they arrive, tried again with pauses."""

import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

from schemas.errors import DigestMismatch, Fault, FaultlineError, FetchFailed, FetchRefused, NotFound, Unavailable, join_errors
from schemas.references import NamedFile, Place, read_place, show_place
from storage.artifacts import ArtifactStore
from worker.fetching.buckets import Buckets
from worker.fetching.files import open_beneath
from worker.fetching.limits import FetchLimits
from worker.fetching.patience import Patience, Transient
from worker.fetching.resolving import Resolver, resolve_by_system
from worker.fetching.web import Web

LOOK_AT_ROOM_BYTES: Final = 64 * 2**20
FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 30.0


class Content(Protocol):
    """A file that is being read, wherever it lies; `length` as far as it was announced."""

    @property
    def length(self) -> int | None:
        """Its size in bytes."""

    def read_chunks(self) -> Iterator[bytes]:
        """Yield its bytes."""


@dataclass(frozen=True)
class Errand:
    """For whom files are fetched, and who listens.

    known: digests by part, as an earlier attempt found them. note: told of every digest that is new. tell: told of progress, as
    bytes that came and bytes that were announced. check: raises to interrupt.
    """

    owner: str
    known: Mapping[str, str]
    note: Callable[[str, str], None]
    tell: Callable[[int, int], None]
    check: Callable[[], None]


class Fetcher:
    """Makes artifacts of references; the artifacts' files are below `folder`."""

    def __init__(
        self, limits: FetchLimits, artifacts: ArtifactStore, folder: Path, resolve: Resolver = resolve_by_system
    ) -> None:
        self._limits = limits
        self._artifacts = artifacts
        self._folder = folder
        self._web = Web(limits, limits.fetch_ca_file, resolve)
        self._buckets = Buckets(limits.fetch_ca_file)

    def fetch_all(self, files: Sequence[NamedFile], errand: Errand) -> dict[str, str]:
        """Return the digest of each part's file, all of them artifacts of the owner.

        Raises:
            join_errors: FetchRefused, FetchFailed or NotFound, with one fault for each file that cannot be had.
        """
        digests: dict[str, str] = {}
        errors: list[FaultlineError] = []
        # What costs nothing to see comes before what takes time to fetch.
        for file in sorted(files, key=lambda one: not one.uri.startswith("artifact:")):
            if errors and isinstance(errors[0], NotFound) and not file.uri.startswith("artifact:"):
                break
            try:
                digests[file.part] = self._fetch(file, errand)
            except (FetchFailed, FetchRefused, NotFound) as error:
                errors.append(type(error)(*(replace(fault, where=f"/{file.part}/uri") for fault in error.faults)))
        if errors:
            raise join_errors(errors)
        return digests

    def _fetch(self, file: NamedFile, errand: Errand) -> str:
        fault = self._limits.find_fault(file.uri, errand.owner, pinned=file.sha256 is not None)
        if fault is not None:
            raise FetchRefused(fault)
        place = read_place(file.uri)
        if place.scheme == "artifact":
            return self._find(place.name, file.uri, errand.owner)
        pin = file.sha256 or errand.known.get(file.part)
        if pin is None or self._artifacts.path(errand.owner, pin) is None:
            pin = self._try_on(file._replace(sha256=pin), place, errand)
        if pin != errand.known.get(file.part):
            errand.note(file.part, pin)
        return pin

    def _find(self, digest: str, uri: str, owner: str) -> str:
        if self._artifacts.path(owner, digest) is None:
            advice = "upload the file again and post the audit again"
            raise NotFound(Fault("the artifact is not in the store any more", "", "an uploaded artifact", uri, advice))
        return digest

    def _try_on(self, file: NamedFile, place: Place, errand: Errand) -> str:
        limits = self._limits
        patience = Patience(limits.fetch_timeout_s, limits.fetch_silence_s, errand.check)
        attempt = 0
        while True:
            try:
                return self._copy(file, place, errand, patience)
            except Transient as error:
                attempt += 1
                if attempt >= limits.fetch_tries:
                    raise FetchFailed(_describe_last(error, attempt, file.uri)) from None
                patience.sleep(max(_choose_pause(attempt), error.wait_s))

    def _copy(self, file: NamedFile, place: Place, errand: Errand, patience: Patience) -> str:
        with self._open(place, file.uri, errand.owner, patience) as content, self._artifacts.begin(errand.owner) as upload:
            announced, look_at = content.length or 0, 0
            self._check_size(announced)
            self._check_room(announced)
            for chunk in content.read_chunks():
                patience.check()
                self._check_size(upload.size_bytes + len(chunk))
                if upload.size_bytes >= look_at:
                    self._check_room(0)
                    look_at = upload.size_bytes + LOOK_AT_ROOM_BYTES
                upload.write(chunk)
                errand.tell(upload.size_bytes, announced)
            try:
                return upload.commit(file.sha256)
            except DigestMismatch as error:
                advice = "correct the digest or the URI; a reference without sha256 must not change while its audit runs"
                got = error.faults[0].got
                raise FetchFailed(
                    Fault("the file has not the sha256 that it must have", "", str(file.sha256), got, advice)
                ) from None

    def _open(self, place: Place, uri: str, owner: str, patience: Patience) -> AbstractContextManager[Content]:
        if place.scheme == "file":
            roots = [root for root in self._limits.list_roots(owner) if place.path.startswith(f"{root.rstrip('/')}/")]
            return open_beneath(roots[0], place.path)
        return self._buckets.get(place, patience) if place.scheme == "s3" else self._web.get(uri, patience)

    def _check_size(self, size_bytes: int) -> None:
        limit = self._limits.fetch_max_bytes
        if size_bytes > limit:
            advice = "use a smaller file, or ask the operator to raise FAULTLINE_FETCH_MAX_BYTES"
            raise FetchFailed(Fault("the file is too large", "", f"at most {limit} bytes", f"{size_bytes} bytes or more", advice))

    def _check_room(self, size_bytes: int) -> None:
        found = os.statvfs(self._folder)
        room = found.f_bavail * found.f_frsize
        if room < size_bytes + self._limits.fetch_free_bytes:
            needed = f"room for {size_bytes} bytes, and {self._limits.fetch_free_bytes} bytes to spare"
            raise Unavailable(
                Fault("the workers' disk has no room for the file", "", needed, f"{room} bytes", "free space on it")
            )


def _choose_pause(attempt: int) -> float:
    return min(FIRST_PAUSE_S * 4.0 ** (attempt - 1), LONGEST_PAUSE_S) * random.uniform(0.5, 1.0)  # noqa: S311 - not a secret


def _describe_last(error: Transient, attempts: int, uri: str) -> Fault:
    advice = "look whether its server works, then post the audit again"
    return Fault(f"the file could not be fetched in {attempts} attempts: {error}", "", "the file", show_place(uri), advice)
