"""How much an owner may store. What is used is what the disk says, so no crash and no deletion can make the count wrong."""

from pathlib import Path
from typing import Final

from schemas.errors import Fault, QuotaExceeded
from storage.artifacts import FileArtifactStore, name_folder
from storage.locks import hold_lock
from storage.resumable import Progress, ResumableUploads
from storage.uploads import reaching_disk

ACCOUNTS: Final = ".accounts"
RETRY_AFTER_S: Final = 60


class Quota:
    """Artifacts and announced uploads of an owner together stay within the limit; 0 is no limit. Blocking."""

    def __init__(self, root: Path, artifacts: FileArtifactStore, uploads: ResumableUploads, limit_bytes: int) -> None:
        self._accounts = root / ACCOUNTS
        self._artifacts = artifacts
        self._uploads = uploads
        self._limit_bytes = limit_bytes

    @property
    def is_limited(self) -> bool:
        """Whether there is a limit."""
        return self._limit_bytes > 0

    def begin(self, owner: str, length_bytes: int, announced: str | None) -> Progress:
        """Return a new upload, whose bytes count from now on, arrived or not.

        Raises:
            QuotaExceeded: when they do not fit.
            Unavailable: when the disk fails.

        """
        if not self.is_limited:
            return self._uploads.create(owner, length_bytes, announced)
        with reaching_disk(self._accounts):
            self._accounts.mkdir(mode=0o700, exist_ok=True)
            # One at a time, or two that fit singly would both be let in.
            with hold_lock(self._accounts / name_folder(owner)):
                self.check(owner, length_bytes)
                return self._uploads.create(owner, length_bytes, announced)

    def check(self, owner: str, more_bytes: int) -> None:
        """Check that so many bytes more fit.

        Raises:
            QuotaExceeded: when they do not.

        """
        if not self.is_limited:
            return
        # Uploads first: one that becomes an artifact meanwhile is counted twice rather than not at all.
        announced = self._uploads.sum_announced(owner)
        stored = self._artifacts.sum_sizes(owner)
        left = self._limit_bytes - announced - stored
        if more_bytes > left:
            raise QuotaExceeded(self._describe(more_bytes, left, stored, announced), retry_after_s=RETRY_AFTER_S)

    def _describe(self, more_bytes: int, left: int, stored: int, announced: int) -> Fault:
        advice = (
            f"Of {self._limit_bytes} bytes, {stored} are stored and {announced} announced by uploads that have not ended. Delete "
            "audits and artifacts that nobody needs, give uploads up, or ask the operator for more (FAULTLINE_QUOTA_BYTES)."
        )
        return Fault(
            "the storage of this tenant is used up", "body", f"at most {max(0, left)} bytes more", str(more_bytes), advice
        )
