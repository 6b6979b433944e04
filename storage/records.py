"""JobRecord: what the store keeps of a job."""

import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from schemas.job import JobKind, JobState
from schemas.verdict import Outcome
from storage.placement import DEFAULT_PRIORITY

JOB_ID = re.compile(r"[0-9a-f]{13}[0-9a-v]{16}")
"""Microseconds since 1970 as the store's clock gave them, then 80 random bits."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class JobRecord:
    """One job as it stands in the store. `request` is its canonical JSON; `revision` rises with every change.

    `started_at` is when the present or last attempt began: a job that went back to the queue has none. `device` is None in
    records of a program that knew one class only, until a worker has found them.
    """

    id: str
    kind: JobKind
    owner: str
    state: JobState
    attempt: int
    revision: int
    cancel: bool
    request: bytes
    request_digest: str
    labels: dict[str, str]
    progress: dict[str, Any] | None
    report_sha256: str | None
    problem: dict[str, Any] | None
    verdict: Outcome | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    reused: bool
    traceparent: str | None = None
    device: str | None = None
    priority: int = DEFAULT_PRIORITY
    deadline_at: datetime | None = None
    deliveries: tuple[str, ...] = ()
    """The attempts to tell the webhook, each as JSON."""
    files: dict[str, str] = field(default_factory=dict)
    """Digests of what was fetched, by field of the request."""
    told: str | None = None
    """What became of it: pending, delivered or given_up."""


def read_record(id: str, fields: dict[bytes, bytes]) -> JobRecord:
    """Return the record that a hash holds; fields of newer programs are ignored."""
    text = {name.decode(): value.decode() for name, value in fields.items() if name != b"request"}
    return JobRecord(
        id=id,
        kind=cast("JobKind", text.get("kind", "audit")),
        owner=text["owner"],
        state=cast("JobState", text["state"]),
        attempt=int(text["attempt"]),
        revision=int(text["revision"]),
        cancel=text["cancel"] == "1",
        request=fields[b"request"],
        request_digest=text["request_digest"],
        labels=json.loads(text["labels"]),
        progress=_read_json(text.get("progress")),
        report_sha256=text.get("report_sha256"),
        problem=_read_json(text.get("problem")),
        verdict=cast("Outcome | None", text.get("verdict")),
        created_at=_read_time(text["created_at"]),
        started_at=_read_time(text["started_at"]) if "started_at" in text else None,
        ended_at=_read_time(text["ended_at"]) if "ended_at" in text else None,
        reused=text.get("reused") == "1",
        traceparent=text.get("traceparent"),
        device=text.get("device"),
        priority=int(text.get("priority", DEFAULT_PRIORITY)),
        deadline_at=_read_time(text["deadline_at"]) if "deadline_at" in text else None,
        deliveries=tuple(text.get("deliveries", "").splitlines()),
        files=json.loads(text.get("files", "{}")),
        told=text.get("told"),
    )


def pair_fields(flat: list[bytes]) -> dict[bytes, bytes]:
    """Return the hash that a script gave back as names and values in turn."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _read_json(text: str | None) -> dict[str, Any] | None:
    content: dict[str, Any] | None = None if text is None else json.loads(text)
    return content


def _read_time(microseconds: str) -> datetime:
    return _EPOCH + timedelta(microseconds=int(microseconds))
