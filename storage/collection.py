"""Removes what nobody needs: jobs whose time is up, artifacts that nothing names, uploads that nobody goes on with.

Why no artifact that is needed can go, whatever runs at the same time:

1. A removal looks at the file's time of use under a lock that every use shares, and leaves it if it was used after the
   removal's threshold.
2. The threshold is a grace time before the jobs were looked through. A job that was made since touches its files once more
   after it was made, and is refused if one is gone; so what it needs was used after the threshold.
3. The threshold is also a grace time before the first attempt began that still runs. So the results that a worker has written
   and not yet named were used after the threshold; an attempt that lost its job cannot name any.
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import redis

from schemas.errors import Conflict, Fault, NotFound
from storage.artifacts import FileArtifactStore, name_folder
from storage.connection import reaching_store
from storage.references import NEVER, JobTrace, Needs, References, find_jobs
from storage.resumable import ResumableUploads
from storage.scripts import KEY_PREFIX, load_script

logger = logging.getLogger("faultline.storage")

TICK_S: Final = 0.02
"""Times in files are no finer than this: what was written just now is older only after so long."""
SKEW_S: Final = 60.0
"""How far the clocks of the job store and the disk may be apart, where no grace time covers that."""


@dataclass(frozen=True)
class Lifetimes:
    """How long things are kept, in seconds; a retention of 0 keeps ended jobs for ever."""

    retention_s: float
    grace_s: float
    upload_s: float


@dataclass
class Collected:
    """How much was removed."""

    jobs: int = 0
    artifacts: int = 0
    freed_bytes: int = 0
    uploads: int = 0


class Collector:
    """Blocking; threads and processes may collect at the same time."""

    def __init__(self, client: redis.Redis, artifacts: FileArtifactStore, uploads: ResumableUploads) -> None:
        self._client = client
        self._artifacts = artifacts
        self._uploads = uploads
        self._references = References(artifacts)
        self._purge = client.register_script(load_script("purge"))

    def collect(self, lifetimes: Lifetimes) -> Collected:
        """Return how much was removed: all that is not needed.

        Raises:
            Unavailable: when the job store or the disk is out of reach; what was removed until then was not needed.

        """
        collected = Collected()
        self._artifacts.remove_leftovers()
        now = self._artifacts.read_clock_ns() / 1e9  # before the jobs are looked through
        needs = self._references.add_up(self._keep_young(lifetimes.retention_s, collected))
        for folder, entry in self._artifacts.walk():
            own = needs.get(folder, Needs())
            if entry.name not in own.live and entry.name not in own.kept:
                before_s = min(now, own.writing_since) - lifetimes.grace_s
                self._remove(Path(entry.path), before_s, collected)
        collected.uploads = self._uploads.expire(now - lifetimes.upload_s)
        return collected

    def remove_job(self, owner: str, id: str) -> None:
        """Remove a job that has ended, and at once those of its results that no other job of the owner needs.

        Raises:
            NotFound: when the owner has no such job.
            Conflict: when it has not ended.
            Unavailable: when the job store or the disk is out of reach.

        """
        outcome, said = self._run_purge(id, owner, "")
        if outcome == "missing":
            advice = "It may be gone already."
            raise NotFound(Fault("there is no such job", "path: id", "the id of a job that has ended", id, advice))
        if outcome != "ok":
            what, expected = "the job was made by a newer version", "one of this version"
            if outcome == "live":
                what, expected = f"the job is {said}", "one that has ended"
            raise Conflict(Fault(what, "path: id", expected, said or outcome, "Wait for its end; an audit can be cancelled."))
        if said:
            self._remove_results(owner, said)

    def _remove_results(self, owner: str, report_sha256: str) -> None:
        digests = self.find_results(owner, report_sha256)
        self._references.forget(report_sha256)
        now_ns = self._read_next_tick_ns()
        own = self._read_needs(owner)
        for digest in digests - own.live - own.kept:
            # What another job has used since, or may have written, is left to `collect`.
            self._artifacts.remove(owner, digest, min(now_ns, _to_ns(own.writing_since - SKEW_S)))

    def find_results(self, owner: str, report_sha256: str) -> set[str]:
        """Return the report's digest and those of its counterexamples."""
        return {report_sha256} | self._references.find_counterexamples(owner, report_sha256)

    def remove_artifact(self, owner: str, sha256: str) -> None:
        """Remove an artifact that no job needs.

        Raises:
            NotFound: when the owner has none of this digest.
            Conflict: when a live job or a kept report needs it, or somebody is just using it.
            Unavailable: when the job store or the disk is out of reach.

        """
        where, now_ns = "path: sha256", self._read_next_tick_ns()
        if self._artifacts.size(owner, sha256) is None:
            advice = "It may be gone already."
            raise NotFound(Fault("there is no such artifact", where, "the digest of a stored artifact", sha256, advice))
        own = self._read_needs(owner)
        if sha256 in own.live:
            advice = "Cancel the audit, or wait for its end."
            raise Conflict(Fault("an audit that has not ended needs the artifact", where, "one that is free", sha256, advice))
        if sha256 in own.kept:
            what, advice = (
                "the artifact is part of an audit's report",
                "Delete what is kept of the audit: DELETE /v1/audits/{id}/report.",
            )
            raise Conflict(Fault(what, where, "an artifact that no report needs", sha256, advice))
        # An audit that runs may have written it and not named it yet.
        if not self._artifacts.remove(owner, sha256, min(now_ns, _to_ns(own.writing_since - SKEW_S))):
            what, advice = "the artifact may be the result of an audit that has not ended", "Wait for the audit's end."
            raise Conflict(Fault(what, where, "one that nobody uses meanwhile", sha256, advice))

    def _read_next_tick_ns(self) -> int:
        """Return a time that is later than that of all that was used before the call."""
        time.sleep(TICK_S)
        return self._artifacts.read_clock_ns()

    def _read_needs(self, owner: str) -> Needs:
        jobs = (job for job in find_jobs(self._client) if job.owner == owner)
        return self._references.add_up(jobs).get(name_folder(owner), Needs())

    def _keep_young(self, retention_s: float, collected: Collected) -> Iterator[JobTrace]:
        """Yield the jobs that are kept; the others are removed."""
        with reaching_store():
            seconds, microseconds = self._client.time()
        latest = seconds + microseconds / 1e6 - retention_s
        for job in find_jobs(self._client):
            is_over = retention_s > 0 and job.ended_at is not None and job.ended_at < latest
            if is_over and self._run_purge(job.id, "", round(latest * 1e6))[0] == "ok":
                collected.jobs += 1
            else:
                yield job

    def _run_purge(self, id: str, owner: str, latest: int | str) -> tuple[str, str]:
        with reaching_store():
            outcome, *said = cast("list[bytes]", self._purge(keys=[KEY_PREFIX], args=[id, owner, latest]))
        return outcome.decode(), said[0].decode() if said else ""

    def _remove(self, path: Path, before_s: float, collected: Collected) -> None:
        try:
            found = path.stat()
        except FileNotFoundError:
            return
        if found.st_mtime < before_s and self._artifacts.remove_file(path, _to_ns(before_s)):
            collected.artifacts += 1
            collected.freed_bytes += found.st_size


def _to_ns(time_s: float) -> int:
    return 2**63 if time_s == NEVER else round(time_s * 1e9)
