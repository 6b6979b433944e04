"""Janitor: a thread of every worker that collects what nobody needs; in each period one of them does it."""

import logging
import threading
from typing import Final

import redis

from schemas.errors import Unavailable
from storage.artifacts import FileArtifactStore
from storage.collection import Collector, Lifetimes
from storage.connection import connect, reaching_store
from storage.resumable import ResumableUploads
from storage.scripts import KEY_PREFIX
from worker.settings import WorkerSettings

log = logging.getLogger(__name__)

TURN: Final = f"{KEY_PREFIX}janitor"
FIRST_S: Final = 5.0


class Janitor:
    """Whoever takes the turn collects; it lapses with the period, so a worker that dies over it costs one period."""

    def __init__(self, client: redis.Redis, collector: Collector, lifetimes: Lifetimes, worker: str, period_s: float) -> None:
        self._client = client
        self._collector = collector
        self._lifetimes = lifetimes
        self._worker = worker
        self._period_s = period_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="janitor", daemon=True)

    def start(self) -> None:
        """Begin the rounds."""
        self._thread.start()

    def close(self) -> None:
        """End the rounds; one that is under way is left to the end of the process, which does no harm."""
        self._stop.set()
        self._thread.join(timeout=2)

    def clean_once(self) -> bool:
        """Return whether it was our turn to collect; then it is done.

        Raises:
            Unavailable: when the job store or the disk is out of reach.

        """
        with reaching_store():
            if not self._client.set(TURN, self._worker, nx=True, px=max(1, round(self._period_s * 1000))):
                return False
        collected = self._collector.collect(self._lifetimes)
        if collected.jobs or collected.artifacts or collected.uploads:
            log.info(
                "removed %d jobs, %d artifacts of %d bytes, %d uploads",
                *(collected.jobs, collected.artifacts, collected.freed_bytes, collected.uploads),
            )
        return True

    def _run(self) -> None:
        wait_s = min(FIRST_S, self._period_s)
        while not self._stop.wait(wait_s):
            wait_s = self._period_s / 4
            try:
                self.clean_once()
            except Unavailable as error:
                log.warning("nothing is cleaned up for now: %s", error)
            except Exception:  # a round that fails must not be the last one
                log.exception("cleaning up failed")


def build_janitor(settings: WorkerSettings, artifacts: FileArtifactStore, worker: str) -> Janitor:
    """Return the janitor of a worker, with connections of its own."""
    client = connect(settings.redis_url)
    uploads = ResumableUploads(settings.data_dir / "artifacts", artifacts)
    lifetimes = Lifetimes(settings.retention_days * 86400, settings.artifact_grace_s, settings.upload_life_s)
    return Janitor(client, Collector(client, artifacts, uploads), lifetimes, worker, settings.cleanup_s)
