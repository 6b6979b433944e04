"""Drain: what happens between SIGTERM and the end of the worker."""

import logging
import os
import threading
import time

log = logging.getLogger(__name__)

GRACE_S = 10.0
"""Seconds after the drain time for giving the job back and for Celery to stop; then the process ends regardless."""


class Drain:
    """Set once, by a signal handler; read by the thread that supervises a job.

    A worker that hangs in a broken connection while it stops would keep its host from going down, so a guard
    thread ends the process when the drain time and a grace are over. Nothing is lost: leases run out.
    """

    def __init__(self, drain_s: float) -> None:
        self._drain_s = drain_s
        self._begun_at: float | None = None
        self._begun = threading.Event()

    def guard(self) -> None:
        """Start the thread that bounds the shutdown."""
        threading.Thread(target=self._end_in_time, name="drain-guard", daemon=True).start()

    def begin(self) -> None:
        """Stop claiming and start the clock; safe to call from a signal handler, and twice."""
        if self._begun_at is None:
            self._begun_at = time.monotonic()
        self._begun.set()

    @property
    def begun(self) -> bool:
        """Whether the worker is stopping."""
        return self._begun_at is not None

    @property
    def over(self) -> bool:
        """Whether the running job has had its drain time."""
        return self._begun_at is not None and time.monotonic() - self._begun_at >= self._drain_s

    def _end_in_time(self) -> None:
        self._begun.wait()
        time.sleep(self._drain_s + GRACE_S)
        log.error("the worker did not stop in time and ends now; its job will be taken over")
        os._exit(1)
