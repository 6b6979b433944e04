"""Heartbeat: keeps the lease of one running job, carries its progress out and brings the store's answer back."""

import logging
import threading
import time
from types import TracebackType
from typing import Self

from schemas.errors import Unavailable
from storage.leases import Beat, Leases
from worker.messages import ProgressMessage

log = logging.getLogger(__name__)


class Heartbeat:
    """Beats on a thread of its own, so that a slow store does not delay the watch over time and memory."""

    def __init__(self, leases: Leases, job_id: str, attempt: int, period_s: float) -> None:
        self.answer: Beat = "ok"
        self._leases = leases
        self._job_id = job_id
        self._attempt = attempt
        self._period_s = period_s
        self._progress: dict[str, object] | None = None
        self._phase = ("", 0.0)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    def tell(self, progress: ProgressMessage) -> None:
        """Note progress; the next beat carries it."""
        now = time.monotonic()
        if progress.phase != self._phase[0]:
            self._phase = (progress.phase, now)
        eta_s = estimate_remaining(now - self._phase[1], progress.done, progress.total)
        self._progress = {"phase": progress.phase, "done": progress.done, "total": progress.total, "eta_s": eta_s}

    def _run(self) -> None:
        try:
            self._beat_on()
        except Exception:  # whatever it was: without beats the lease runs out, so the audit is stopped now
            log.exception("the heartbeat of job %s failed", self._job_id)
            self.answer = "lost"

    def _beat_on(self) -> None:
        reached = True
        while not self._stop.wait(self._period_s):
            try:
                answer = self._leases.beat(self._job_id, self._attempt, self._progress)
            except Unavailable as error:
                # The job outlives it: its lease is renewed, or found lost, when the store is back.
                if reached:
                    log.warning("job %s goes on without the store: %s", self._job_id, error)
                reached = False
                continue
            reached = True
            self.answer = answer
            if answer == "lost":
                return


def estimate_remaining(elapsed_s: float, done: int, total: int) -> float | None:
    """Return the seconds left when the rest goes on as it did, None when nothing is known yet.

    >>> estimate_remaining(10.0, 5, 20)
    30.0
    """
    if not 0 < done <= total or elapsed_s <= 0:
        return None
    return round(elapsed_s * (total - done) / done, 1)
