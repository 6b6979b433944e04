"""Shows stored records the way the API publishes them. Pure functions."""

from datetime import datetime

from schemas.job import TERMINAL_STATES, Job, JobKind, Progress, ReportPointer, Timings, VerdictPointer
from schemas.problem import Problem
from storage.records import JobRecord
from telemetry.traceparent import read_traceparent

AUDITS, PLANS, INSPECTIONS = "/v1/audits", "/v1/plans", "/v1/inspections"
PATHS: dict[JobKind, str] = {"audit": AUDITS, "plan": PLANS, "inspection": INSPECTIONS}


def build_job(record: JobRecord) -> Job:
    """Return the job of `record`: nothing else goes in, so that the record's revision is an entity tag."""
    links = build_links(record)
    return Job(
        schema_version=1,
        kind=record.kind,
        id=record.id,
        state=record.state,
        revision=record.revision,
        created_at=record.created_at,
        started_at=record.started_at,
        ended_at=record.ended_at,
        attempt=record.attempt,
        cancel_requested=record.cancel,
        progress=None if record.progress is None else Progress.model_validate(record.progress),
        request_digest=record.request_digest,
        report=None if "report" not in links else ReportPointer(sha256=str(record.report_sha256), url=links["report"]),
        problem=None if record.problem is None else Problem.model_validate(record.problem),
        verdict=None if record.verdict is None else VerdictPointer(outcome=record.verdict, url=links["verdict"]),
        timings=Timings(
            queued_s=_seconds_between(record.created_at, record.started_at or record.ended_at),
            running_s=_seconds_between(record.started_at, record.ended_at),
        ),
        labels=record.labels,
        links=links,
        trace_id=find_trace_id(record),
        device=record.device,
        priority=record.priority,
        deadline_at=record.deadline_at,
    )


def build_links(record: JobRecord) -> dict[str, str]:
    """Return the paths that make sense for the job in its state."""
    links = {"self": f"{PATHS[record.kind]}/{record.id}"}
    if record.kind != "audit":
        return links
    if record.report_sha256 is not None:
        links["report"] = f"{AUDITS}/{record.id}/report"
    if record.verdict is not None:
        links["verdict"] = f"{AUDITS}/{record.id}/verdict"
    if record.state not in TERMINAL_STATES:
        links["cancel"] = links["self"]
    return links


def find_trace_id(record: JobRecord) -> str | None:
    """Return the id of the trace that the job belongs to; records of earlier programs have none."""
    place = read_traceparent(record.traceparent)
    return None if place is None else place.trace_id


def _seconds_between(start: datetime | None, end: datetime | None) -> float | None:
    return None if start is None or end is None else max(0.0, (end - start).total_seconds())
