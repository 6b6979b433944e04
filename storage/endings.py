"""The problems of jobs that end without a worker's word: cancelled, too late, or given up after too many attempts."""

from typing import Final

from schemas.base import canonical_bytes
from schemas.errors import AttemptsExhausted, Cancelled, DeadlineMissed, Fault
from schemas.problem import build_problem

MAX_TRIES: Final = 5


def describe_cancelled() -> bytes:
    """Return the problem of an audit that was cancelled while nobody ran it."""
    return canonical_bytes(build_problem(Cancelled(Fault("the audit was cancelled before it ended"))))


def describe_exhausted(max_tries: int, *last: Fault) -> bytes:
    """Return the problem of an audit whose attempts are used up; `last` is what the last one died of, if it is known."""
    given_up = Fault(
        f"all {max_tries} attempts at the audit lost their worker",
        expected="an attempt that ends",
        got=f"{max_tries} attempts without an end",
        advice="the model may need more memory than the workers have; look at their logs, then post the audit again",
    )
    return canonical_bytes(build_problem(AttemptsExhausted(given_up, *last)))


def describe_late() -> bytes:
    """Return the problem of an audit whose deadline came while it waited for a worker."""
    waited = Fault(
        "the deadline came before a worker had time for the audit",
        where="/deadline_s",
        expected="a worker before the deadline",
        got="none",
        advice="post it again with a later deadline or a better priority, or ask the operator for more workers",
    )
    return canonical_bytes(build_problem(DeadlineMissed(waited)))
