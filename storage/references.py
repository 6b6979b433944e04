"""Which artifacts the jobs in the store need: what live ones name, the results of those that ended, and their counterexamples."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, cast

import redis

from schemas.job import TERMINAL_STATES
from storage.artifacts import ArtifactStore, FileArtifactStore, name_folder
from storage.connection import reaching_store
from storage.scripts import KEY_PREFIX

DIGEST: Final = re.compile(rb"[0-9a-f]{64}")
COUNTEREXAMPLE: Final = re.compile(rb'"artifact":"sha256:([0-9a-f]{64})"')
FIELDS: Final = ("owner", "state", "created_at", "started_at", "ended_at", "report_sha256")
BATCH: Final = 500
NEVER: Final = float("inf")


@dataclass(frozen=True)
class JobTrace:
    """What keeps artifacts of a job. Times are seconds since 1970; `ended_at` is None of a live job, which names `digests`.

    `writing_since` is when the attempt began that may have written results which nothing names yet; None while nobody runs it.
    """

    id: str
    owner: str
    writing_since: float | None
    ended_at: float | None
    report_sha256: str | None
    digests: frozenset[str] = frozenset()


@dataclass
class Needs:
    """The artifacts that an owner's jobs need: live ones, and ended ones whose record is kept.

    A running job may be about to name more, none of which was used before its attempt began; the first did at `writing_since`.
    """

    live: set[str] = field(default_factory=set)
    kept: set[str] = field(default_factory=set)
    writing_since: float = NEVER


def find_jobs(client: redis.Redis) -> Iterator[JobTrace]:
    """Yield every job that is there from beginning to end; one that is made meanwhile may be left out.

    Raises:
        Unavailable: when the store is out of reach.

    """
    cursor = 0
    with reaching_store():
        while True:
            cursor, keys = cast("tuple[int, list[bytes]]", client.scan(cursor, f"{KEY_PREFIX}job:*", BATCH))
            yield from _read_batch(client, keys)
            if cursor == 0:
                return


class References:
    """Adds up what jobs need. What a report names is read from its file once, for a report never changes."""

    def __init__(self, artifacts: FileArtifactStore) -> None:
        self._artifacts = artifacts
        self._known: dict[str, frozenset[str]] = {}

    def add_up(self, jobs: Iterable[JobTrace]) -> dict[str, Needs]:
        """Return the needs by the owner's folder."""
        needs: dict[str, Needs] = {}
        for job in jobs:
            own = needs.setdefault(name_folder(job.owner), Needs())
            if job.ended_at is None:
                own.writing_since = min(own.writing_since, NEVER if job.writing_since is None else job.writing_since)
                own.live |= job.digests
            elif job.report_sha256 is not None:
                own.kept |= {job.report_sha256} | self.find_counterexamples(job.owner, job.report_sha256)
        return needs

    def find_counterexamples(self, owner: str, report_sha256: str) -> frozenset[str]:
        """Return the artifacts that a stored report names; none when it is gone."""
        if report_sha256 not in self._known:
            path = self._artifacts.path(owner, report_sha256)
            if path is None:
                return frozenset()
            self._known[report_sha256] = read_counterexamples(path)
        return self._known[report_sha256]

    def forget(self, report_sha256: str) -> None:
        """Forget a report that is gone."""
        self._known.pop(report_sha256, None)


def read_counterexamples(report: Path) -> frozenset[str]:
    """Return the digests of the counterexamples that a report's file names; none when the file is gone."""
    # The text is searched and not parsed: ten thousand reports are looked at, and a digest too many is only kept too long.
    try:
        return frozenset(digest.decode() for digest in COUNTEREXAMPLE.findall(report.read_bytes()))
    except FileNotFoundError:
        return frozenset()


def touch_results(artifacts: ArtifactStore, owner: str, report_sha256: str) -> bool:
    """Note that a report and its counterexamples are used now, and tell whether all of them are there."""
    path = artifacts.path(owner, report_sha256)
    if path is None or artifacts.touch(owner, report_sha256) is None:
        return False
    return all(artifacts.touch(owner, digest) is not None for digest in read_counterexamples(path))


def _read_batch(client: redis.Redis, keys: list[bytes]) -> Iterator[JobTrace]:
    with client.pipeline(transaction=False) as pipeline:
        for key in keys:
            pipeline.hmget(key, FIELDS)
        found = pipeline.execute()
        live = [key for key, values in zip(keys, found, strict=True) if values[0] is not None and _is_live(values[1])]
        for key in live:
            pipeline.hvals(key)
        named = dict(zip(live, pipeline.execute(), strict=True))
    for key, (owner, state, created_at, started_at, ended_at, report) in zip(keys, found, strict=True):
        if owner is None:  # removed meanwhile
            continue
        id = key.decode().rpartition(":")[2]
        if _is_live(state):
            # Whatever field names it, in whatever way: also one of a newer program.
            digests = frozenset(word.decode() for value in named[key] for word in DIGEST.findall(value))
            begun = None if state == b"queued" else int(started_at or created_at) / 1e6
            yield JobTrace(id, owner.decode(), begun, None, None, digests)
        else:
            yield JobTrace(id, owner.decode(), None, int(ended_at) / 1e6, report.decode() if report else None)


def _is_live(state: bytes) -> bool:
    return state.decode() not in TERMINAL_STATES
