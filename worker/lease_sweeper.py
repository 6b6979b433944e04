"""LeaseSweeper: returns the jobs of dead workers to the queue, rings lost doorbells, and says that this worker lives."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping

from schemas.errors import Unavailable
from storage.doorbell import Doorbell
from storage.leases import Leases

log = logging.getLogger(__name__)

WARMING_PERIOD_S = 0.2


class LeaseSweeper:
    """A thread of every worker; three rounds fit into one lease, and any worker's round serves all."""

    def __init__(
        self,
        leases: Leases,
        doorbell: Doorbell,
        worker: str,
        device: str,
        lease_s: float,
        is_serving: Callable[[], bool],
        sandbox: Mapping[str, bool],
    ) -> None:
        self._leases = leases
        self._doorbell = doorbell
        self._worker = worker
        self._device = device
        self._lease_s = lease_s
        self._is_serving = is_serving
        self._sandbox = sandbox
        self._stop = threading.Event()
        self._reached = True
        self._next_sweep = 0.0
        self._thread = threading.Thread(target=self._run, name="lease-sweeper", daemon=True)

    def start(self) -> None:
        """Begin the rounds."""
        self._thread.start()

    def close(self) -> None:
        """End the rounds."""
        self._stop.set()
        self._thread.join(timeout=5)
        with contextlib.suppress(Unavailable):
            self._leases.announce(self._worker, 0)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._announce()
                if time.monotonic() >= self._next_sweep:
                    self.sweep_once()
                    self._next_sweep = time.monotonic() + self._lease_s / 3
                self._reached = True
            except Unavailable as error:
                if self._reached:
                    log.warning("the store cannot be reached; trying on: %s", error)
                self._reached = False
            except Exception:  # a round that fails must not be the last one
                log.exception("a round of the lease sweeper failed")
            # A worker that is still warming looks more often, so that its readiness is not late by a round.
            self._stop.wait(self._lease_s / 3 if self._is_serving() else WARMING_PERIOD_S)

    def _announce(self) -> None:
        if self._is_serving():
            self._leases.announce(self._worker, self._lease_s, self._sandbox)

    def sweep_once(self) -> list[str]:
        """Do one round and return the jobs whose doorbell was rung."""
        rung = self._leases.sweep(self._device)
        for job_id, device in rung.items():
            self._doorbell.ring(job_id, device)
        if rung:
            log.info("rang again for %d jobs", len(rung))
        return [*rung]
