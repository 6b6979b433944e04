"""What is noted of one attempt while it runs, for log, metrics and traces. Nothing of it decides anything."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from schemas.report import Measurement
from storage.leases import Claim
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
        """Note the phases, once: a second time it could be the model that speaks."""
        if not self.phases:
            self.phases = timing.list_phases(time.monotonic() - self.given)


_CURRENT: ContextVar[Account] = ContextVar("account")


@contextmanager
def keep_account(claim: Claim, settle: Callable[[Account], None]) -> Iterator[Account]:
    """Give the account of an attempt, which `find_account` finds meanwhile; its end, however it came, is logged and settled."""
    account = Account(claim)
    token = _CURRENT.set(account)
    try:
        yield account
    finally:
        _CURRENT.reset(token)
        account.seconds = time.monotonic() - account.began
        line = "job %s attempt %d %s after %.3f s, of which the engine took %.3f s"
        log.info(line, claim.id, claim.attempt, account.outcome, account.seconds, account.engine_s)
        settle(account)


def find_account() -> Account:
    """Return the account of the attempt that this thread runs."""
    return _CURRENT.get()
