"""What can go wrong at the caller's end, each with the exit code it leads to.

FaultlineError
└── ClientError
    ├── BadUsage      command line, files or installation         3
    ├── Refused       the server answered with a problem          by its status
    ├── Unreachable   the server does not answer                  2
    ├── BadAnswer     the server's answer is not the contract's   2
    ├── AuditFailed   the audit ended without a report            2
    └── GaveUp        the wait is over, the audit goes on         4
"""

from enum import IntEnum
from typing import ClassVar

from schemas.errors import Fault, FaultlineError, RequestError
from schemas.job import Job
from schemas.problem import Problem

DENIED_STATUSES = frozenset({401, 403, 429})
REQUEST_CODES = frozenset(kind.code for kind in RequestError.__subclasses__())


class ExitCode(IntEnum):
    """What the `faultline` command tells its caller; docs/cli.md."""

    SUCCESS = 0
    GATE_FAILED = 1
    INCONCLUSIVE = 2
    USAGE = 3
    GAVE_UP = 4
    DENIED = 5


class ClientError(FaultlineError):
    """An error of the client, or one that the server told it of."""

    exit_code: ClassVar[ExitCode] = ExitCode.INCONCLUSIVE


class BadUsage(ClientError):
    """The command line, a file that it names, or the installation does not allow this."""

    code, title, exit_code = "usage", "This cannot be done as asked", ExitCode.USAGE


class Unreachable(ClientError):
    """The server did not answer, however often it was tried."""

    code, title = "unreachable", "The server does not answer"


class BadAnswer(ClientError):
    """The server answered with something that the contract does not know."""

    code, title = "bad_answer", "The server's answer cannot be read"


class ProblemError(ClientError):
    """A problem that the server described; `problem` is the whole document."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        faults = (Fault(item.what, item.where, item.expected, item.got, item.advice) for item in problem.errors)
        super().__init__(*faults)


class Refused(ProblemError):
    """The server refused a call."""

    code, title = "refused", "The server refused"


class AuditFailed(ProblemError):
    """The audit ended without a report: failed, cancelled or quarantined."""

    code, title = "audit_failed", "The audit could not be done"

    def __init__(self, problem: Problem, job: Job | None = None) -> None:
        self.job = job
        super().__init__(problem)


class GaveUp(ClientError):
    """The job did not end in time; it is still queued or running."""

    code, title, exit_code = "gave_up", "The job has not ended yet", ExitCode.GAVE_UP

    def __init__(self, job: Job, wait_s: float) -> None:
        self.job = job
        what = f"{job.kind} {job.id} is still {job.state} after {wait_s:g} s and goes on"
        advice = f"Wait for it with: faultline status {job.id} --wait 600"
        super().__init__(Fault(what, advice=advice if job.kind == "audit" else "Call again: an equal request finds its result."))


def choose_exit_code(error: FaultlineError) -> ExitCode:
    """Return the exit code for an error: what the caller can mend is 3, what the audit could not do is 2."""
    if isinstance(error, Refused):
        if error.problem.status in DENIED_STATUSES:
            return ExitCode.DENIED
        return ExitCode.USAGE if error.problem.code in REQUEST_CODES else ExitCode.INCONCLUSIVE
    if isinstance(error, ClientError):
        return error.exit_code
    return ExitCode.USAGE if isinstance(error, RequestError) else ExitCode.INCONCLUSIVE
