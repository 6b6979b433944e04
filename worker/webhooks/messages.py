"""What a receiver is told: the job's end, signed. Not the report: whoever gets the message asks the API for that, with a key."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from schemas.base import canonical_bytes
from schemas.signing import ID_HEADER, SIGNATURE_HEADER, TIME_HEADER, sign
from storage.records import JobRecord


def build_body(record: JobRecord) -> bytes:
    """Return the message about a job that has ended; the same job always gives the same bytes."""
    links = {"self": f"/v1/audits/{record.id}"}
    if record.report_sha256 is not None:
        links["report"] = f"{links['self']}/report"
    data: dict[str, Any] = {
        "id": record.id,
        "state": record.state,
        "attempt": record.attempt,
        "created_at": _show(record.created_at),
        "started_at": _show(record.started_at),
        "ended_at": _show(record.ended_at),
        "request_digest": record.request_digest,
        "report_sha256": record.report_sha256,
        "verdict": record.verdict,
        "problem": record.problem,
        "labels": record.labels,
        "links": links,
    }
    return canonical_bytes({"type": f"audit.{record.state}", "timestamp": data["ended_at"], "data": data})


def build_headers(secrets: Sequence[str], id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the headers that go with the message; one signature for each secret."""
    return {
        "content-type": "application/json",
        ID_HEADER: id,
        TIME_HEADER: str(timestamp),
        SIGNATURE_HEADER: " ".join(sign(secret, id, timestamp, body) for secret in secrets),
    }


def _show(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat().replace("+00:00", "Z")
