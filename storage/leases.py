"""Leases: the store as workers see it. A job belongs to the attempt that claimed it, for as long as that attempt beats."""

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, cast

import redis

from schemas.base import canonical_bytes
from schemas.errors import Fault, Unavailable
from schemas.job import JobKind
from storage.connection import reaching_store
from storage.endings import MAX_TRIES, describe_cancelled, describe_exhausted, describe_late
from storage.placement import DEFAULT_DEVICE
from storage.scripts import KEY_PREFIX, ScriptName, load_script

LEASE_S: Final = 10.0
QUIET_S: Final = 5.0
LONGEST_QUIET_S: Final = 60.0
MOST_RINGS: Final = 16

Beat = Literal["ok", "cancel", "lost"]
End = Literal["succeeded", "failed", "cancelled"]
NotedAnswer = Literal["ok", "lost", "waits"]


@dataclass(frozen=True)
class Claim:
    """A job that this worker holds. `report_sha256` is the report of an equal audit that ended meanwhile: use it.

    left_s: the time to the job's deadline as the claim was made; None where it has none.
    """

    id: str
    attempt: int
    owner: str
    request: bytes
    request_digest: str
    report_sha256: str | None
    kind: JobKind = "audit"
    left_s: float | None = None
    files: dict[str, str] = field(default_factory=dict)
    """Digests of what earlier attempts fetched, by field of the request."""


class Noted(NamedTuple):
    """What became of a job whose files are known: go on, its lease is lost, or it waits for an equal one."""

    answer: NotedAnswer
    report_sha256: str | None


class Leases:
    """Every call may be repeated when its reply was lost; see docs/architecture/jobs.md.

    A report that finishes a job answers equal requests too, unless it is not `complete`: it was cut off at its deadline.

    `client` must give bytes. Raises Unavailable when the store is out of reach for longer than the client tries.
    """

    def __init__(
        self,
        client: redis.Redis,
        lease_s: float = LEASE_S,
        max_tries: int = MAX_TRIES,
        quiet_s: float = QUIET_S,
    ) -> None:
        self._client = client
        self._lease_us = round(lease_s * 1e6)
        self._max_tries = max_tries
        self._quiet_us = round(quiet_s * 1e6)
        self._scripts = {name: client.register_script(load_script(name)) for name in NAMES}

    def claim(self, rung: str, worker: str, device: str | None = None) -> Claim | None:
        """Take the next job for this class of device, whichever the doorbell rang for; without a class only that job.

        Returns:
            None when there is nothing to do for this worker.

        """
        ends = self._describe_ends()
        reply = self._run("claim", rung, secrets.token_hex(8), worker, self._lease_us, device or "", *ends)
        if reply is None:
            return None
        job_id, attempt, owner, digest, request, report, kind, left_us, files = reply
        return Claim(
            id=job_id.decode(),
            attempt=int(attempt),
            owner=owner.decode(),
            request=request,
            request_digest=digest.decode(),
            report_sha256=report.decode() or None,
            kind=cast("JobKind", kind.decode()),
            left_s=int(left_us) / 1e6 if left_us else None,
            files=json.loads(files or "{}"),
        )

    def read_traceparent(self, job_id: str) -> str | None:
        """Return where in a trace the job was accepted; None also when the store is out of reach, for no job should end by it."""
        try:
            with reaching_store():
                found = cast("bytes | None", self._client.hget(f"{KEY_PREFIX}job:{job_id}", "traceparent"))
        except Unavailable:
            return None
        return None if found is None else found.decode()

    def beat(self, job_id: str, attempt: int, progress: dict[str, Any] | None = None) -> Beat:
        """Keep the lease; "cancel": stop and finish as cancelled, "lost": stop, the job is another's."""
        content = b"" if progress is None else canonical_bytes(progress)
        return cast("Beat", self._run("beat", job_id, attempt, self._lease_us, content).decode())

    def note_files(self, job_id: str, attempt: int, files: Mapping[str, str], request_digest: str = "") -> Noted:
        """Keep the digests of what was fetched; with a request digest the job is from now on the one that reads these files.

        Returns:
            With a request digest perhaps the report of an equal job, or that an equal job runs: then this one went back to the
            queue until that one has ended.

        """
        content = canonical_bytes(dict(files))
        answer, report = self._run("files", job_id, attempt, content, request_digest, *self._describe_ends())
        return Noted(cast("NotedAnswer", answer.decode()), report.decode() or None)

    def finish(
        self,
        job_id: str,
        attempt: int,
        state: End,
        report_sha256: str | None = None,
        verdict: str | None = None,
        problem: dict[str, Any] | None = None,
        *,
        complete: bool = True,
    ) -> bool:
        """End the job; False if it is not this attempt's any more. A success needs its report, any other end its problem."""
        if (state == "succeeded") != (report_sha256 is not None) or (state == "succeeded") == (problem is not None):
            message = f"state {state} does not go with report {report_sha256} and problem {problem}"
            raise ValueError(message)
        content = b"" if problem is None else canonical_bytes(problem)
        reusable = 1 if complete else 0
        return bool(self._run("finish", job_id, attempt, state, report_sha256 or "", verdict or "", content, reusable))

    def release(self, job_id: str, attempt: int, fault: Fault | None = None) -> bool:
        """Give the job back to the queue; without a fault of the worker's own this costs no try. False if it was lost."""
        ends = self._describe_ends(*([fault] if fault else []))
        return bool(self._run("release", job_id, attempt, 1 if fault else 0, *ends))

    def sweep(self, device: str = DEFAULT_DEVICE) -> dict[str, str]:
        """Return jobs of silent workers to the queue, and end those that are too late.

        device: where jobs go that an older program accepted without saying.

        Returns:
            The jobs whose doorbell should ring, each with the class of device whose workers it calls.

        """
        longest_us = max(self._quiet_us, round(LONGEST_QUIET_S * 1e6))
        found = self._run("sweep", *self._describe_ends(), self._quiet_us, longest_us, MOST_RINGS, device)
        names = [name.decode() for name in found]
        return dict(zip(names[::2], names[1::2], strict=True))

    def announce(self, worker: str, ttl_s: float, sandbox: Mapping[str, bool] | None = None) -> None:
        """Say that this worker takes jobs, for `ttl_s` from now, and which layers confine them; 0 says that it leaves."""
        self._run("workers", worker, round(ttl_s * 1e6), canonical_bytes(dict(sandbox or {})))

    def _describe_ends(self, *last: Fault) -> Sequence[int | bytes]:
        return self._max_tries, describe_exhausted(self._max_tries, *last), describe_cancelled(), describe_late()

    def _run(self, name: ScriptName, *arguments: str | bytes | int) -> Any:
        with reaching_store():
            return self._scripts[name](keys=[KEY_PREFIX], args=arguments)


NAMES: Final[tuple[ScriptName, ...]] = ("claim", "beat", "finish", "release", "sweep", "workers", "files")
