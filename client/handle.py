"""AuditHandle: one audit at a server, from the call that posted it to its report and verdict."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from client.errors import AuditFailed
from client.files import load_policy
from schemas.job import TERMINAL_STATES, Job, JobState
from schemas.policy import Policy
from schemas.problem import Problem
from schemas.report import Report
from schemas.verdict import Verdict

if TYPE_CHECKING:
    from client.api import Client, FetchedReport

DEFAULT_WAIT_S = 3600.0
OnChange = Callable[[Job], None]


class AuditHandle:
    """One audit. `job` is what the server last said of it; `wait`, `report` and `verdict` ask as often as it takes."""

    def __init__(self, client: "Client", job: Job) -> None:
        self._client = client
        self._fetched: FetchedReport | None = None
        self.job = job

    def __repr__(self) -> str:
        return f"AuditHandle({self.id!r}, {self.state!r})"

    @property
    def id(self) -> str:
        """The audit's id."""
        return self.job.id

    @property
    def state(self) -> JobState:
        """The state as of the last answer."""
        return self.job.state

    @property
    def has_ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.job.state in TERMINAL_STATES

    def refresh(self) -> Self:
        """Ask the server how it is."""
        self.job = self._client.fetch_job(self.id)
        return self

    def wait(self, timeout_s: float = DEFAULT_WAIT_S, on_change: OnChange | None = None) -> Self:
        """Return when the audit has succeeded.

        Raises:
            AuditFailed: when it has ended otherwise, with the problem that it ended in.
            GaveUp: when it has not ended in time; it goes on.

        """
        self.job = self._client.wait(self.job, timeout_s, on_change)
        check_ended_well(self.job)
        return self

    def fetch(self, timeout_s: float = DEFAULT_WAIT_S) -> "FetchedReport":
        """Return the report with its canonical bytes and their digest, waiting for it if need be."""
        if self._fetched is None:
            self._fetched = self._client.fetch_report(self.wait(timeout_s).id)
        return self._fetched

    def report(self, timeout_s: float = DEFAULT_WAIT_S) -> Report:
        """Return the report, waiting for it if need be."""
        return self.fetch(timeout_s).report

    def verdict(
        self,
        policy: Policy | Mapping[str, Any] | Path | None = None,
        baseline: "AuditHandle | str | Mapping[str, Any] | None" = None,
        timeout_s: float = DEFAULT_WAIT_S,
    ) -> Verdict:
        """Return what a policy says of the report today: the one that was posted with the audit, unless another is given.

        Args:
            policy: a policy, its document, or its file.
            baseline: an earlier audit, its id or its report, for conditions on what has become worse; with a policy only.
            timeout_s: how long to wait for the audit.

        Returns:
            The verdict.

        """
        self.wait(timeout_s)
        if policy is None:
            return self._client.fetch_verdict(self.id)
        earlier = baseline.id if isinstance(baseline, AuditHandle) else baseline
        return self._client.judge(read_policy(policy), self.id, earlier)

    def cancel(self) -> Self:
        """Cancel the audit: a queued one at once, a running one soon."""
        self.job = self._client.cancel(self.id)
        return self


def read_policy(policy: Policy | Mapping[str, Any] | Path) -> Policy:
    """Return a policy that was given as itself, as a document or as a file."""
    if isinstance(policy, Path):
        return load_policy(policy)
    return policy if isinstance(policy, Policy) else Policy.model_validate(dict(policy))


def check_ended_well(job: Job) -> Job:
    """Return the job if it succeeded.

    Raises:
        AuditFailed: with the job's own problem.

    """
    if job.state == "succeeded":
        return job
    problem = job.problem or Problem(
        type="about:blank", title=f"The audit is {job.state}", status=409, code=job.state, detail=f"audit {job.id}", errors=()
    )
    raise AuditFailed(problem, job)
