"""What is noted of one attempt while it runs, for log, metrics and traces. Nothing of it decides anything."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from schemas.report import Measurement
from storage.leases import Claim
from telemetry.context import noting
from telemetry.spans import Value, note_span, span
from telemetry.traceparent import read_traceparent
from worker.messages import TimingMessage
from worker.phases import ENGINE, Phase, find_seconds

log = logging.getLogger(__name__)


@dataclass
class Account:
    """One attempt: when it began, what became of it, and which phases its audit process had, in that process's words.

    code: of the problem that the job ended in. seconds: from claim to end, once that is there.
    """

    claim: Claim
    outcome: str = "raised"
    code: str | None = None
    phases: tuple[Phase, ...] = ()
    measurement: Measurement | None = None
    began: float = field(default_factory=time.monotonic)
    given: float = field(default_factory=time.monotonic)
    seconds: float = 0.0

    @property
    def engine_s(self) -> float:
        """What the audit process worked; 0 when it did not come to an end."""
        return find_seconds(self.phases, ENGINE)

    def note_given(self) -> None:
        """Note that the audit process has its job."""
        self.given = time.monotonic()

    def note_timing(self, timing: TimingMessage) -> None:
        """Note the phases, as spans below the present one too; once: a second time it could be the model that speaks."""
        if self.phases:
            return
        elapsed_s = time.monotonic() - self.given
        self.phases = timing.list_phases(elapsed_s)
        given_ns = time.time_ns() - round(elapsed_s * 1e9)
        for name, began_s, seconds in self.phases:
            began_ns = given_ns + round(began_s * 1e9)
            note_span(name, began_ns, began_ns + round(seconds * 1e9))

    def close(self) -> None:
        """Note and log the end."""
        self.seconds = time.monotonic() - self.began
        told = {"outcome": self.outcome, "seconds": round(self.seconds, 3), "engine_s": round(self.engine_s, 3)}
        line = "job %s attempt %d %s after %.3f s, of which the engine took %.3f s"
        log.info(line, self.claim.id, self.claim.attempt, self.outcome, self.seconds, self.engine_s, extra=told)


_CURRENT: ContextVar[Account] = ContextVar("account")


@contextmanager
def keep_account(claim: Claim, above: str | None, settle: Callable[[Account], None]) -> Iterator[Account]:
    """Give the account of an attempt, which `find_account` finds meanwhile; its end, however it came, is logged and settled.

    Args:
        claim: what the attempt is at.
        above: where in a trace the job was accepted.
        settle: takes the account when it is closed.

    Yields:
        The account.
    """
    account = Account(claim)
    attributes: dict[str, Value] = {
        "faultline.job.id": claim.id,
        "faultline.job.attempt": claim.attempt,
        "faultline.job.kind": claim.kind,
    }
    with (
        noting(job_id=claim.id, attempt=claim.attempt),
        span("job", above=read_traceparent(above), kind="consumer", attributes=attributes) as one,
    ):
        token = _CURRENT.set(account)
        try:
            yield account
        finally:
            _CURRENT.reset(token)
            one.attributes["faultline.job.outcome"] = account.outcome
            account.close()
            settle(account)


def find_account() -> Account:
    """Return the account of the attempt that this thread runs."""
    return _CURRENT.get()
