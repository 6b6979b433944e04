"""Job: the state of one audit, plan or inspection as the API shows it."""

from typing import Literal

from schemas.base import Output, UtcTime
from schemas.problem import Problem

JobKind = Literal["audit", "plan", "inspection"]
JobState = Literal["queued", "running", "succeeded", "failed", "cancelled", "quarantined"]
TERMINAL_STATES: frozenset[str] = frozenset({"succeeded", "failed", "cancelled", "quarantined"})


class Progress(Output):
    """How far the audit is: `done` of `total` passes over the data in `phase`."""

    phase: str
    done: int
    total: int
    eta_s: float | None


class ReportPointer(Output):
    """Where the report is; the digest is that of its canonical JSON bytes."""

    sha256: str
    url: str


class VerdictPointer(Output):
    """The verdict for the policy that came with the audit."""

    outcome: Literal["pass", "warn", "fail", "inconclusive"]
    url: str


class Timings(Output):
    """Seconds spent waiting and running, as far as they are known."""

    queued_s: float | None
    running_s: float | None


class Job(Output):
    """One audit, plan or inspection. `revision` rises with every change and is the ETag.

    trace_id: of the W3C trace that the job belongs to, in the logs of every process that had to do with it.
    device, priority, deadline_at: which workers may take it, how soon, and until when its search may go on.
    """

    schema_version: Literal[1]
    kind: JobKind = "audit"
    id: str
    state: JobState
    revision: int
    created_at: UtcTime
    started_at: UtcTime | None
    ended_at: UtcTime | None
    attempt: int
    cancel_requested: bool
    progress: Progress | None
    request_digest: str
    report: ReportPointer | None
    problem: Problem | None
    verdict: VerdictPointer | None
    timings: Timings
    labels: dict[str, str]
    links: dict[str, str]
    trace_id: str | None = None
    device: str | None = None
    priority: int = 5
    deadline_at: UtcTime | None = None


class JobPage(Output):
    """One page of audits, newest first; `next` is the cursor of the following page."""

    items: tuple[Job, ...]
    next: str | None
