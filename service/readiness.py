"""Whether this deployment can take and finish audits."""

import asyncio
import logging

from redis.exceptions import RedisError

from schemas.about import Readiness
from schemas.errors import Fault, FaultlineError, Unavailable
from storage.artifacts import ArtifactStore
from storage.queue import JobQueue

logger = logging.getLogger("faultline.service")


async def check_readiness(queue: JobQueue, store: ArtifactStore) -> Readiness:
    """Return how many workers and audits there are.

    Raises:
        Unavailable: with one fault per part that does not work.

    """
    faults: list[Fault] = []
    workers, audits = 0, {}
    try:
        await queue.ping()
        workers, audits = await queue.workers(), await queue.counts()
        if workers == 0:
            advice = "Start a worker with `faultline worker`, or wait until one is up."
            faults.append(Fault("no worker is there to take audits", "workers", "at least 1", "0", advice))
    except (RedisError, FaultlineError) as error:
        logger.warning("not ready: the broker does not answer: %s", error)
        advice = "Check REDIS_URL and the broker."
        faults.append(Fault("the broker does not answer", "broker", "an answer", type(error).__name__, advice))
    try:
        await asyncio.to_thread(check_writable, store)
    except OSError as error:
        logger.warning("not ready: the artifact store cannot be written: %s", error)
        advice = "Check FAULTLINE_DATA_DIR, its permissions and the space that is left."
        faults.append(
            Fault("the artifact store cannot be written", "store", "a writable folder", error.strerror or "error", advice)
        )
    if faults:
        raise Unavailable(*faults)
    return Readiness(status="ready", workers=workers, audits=audits)


def check_writable(store: ArtifactStore) -> None:
    """Write a byte into the store and take it back."""
    upload = store.begin("readiness")
    try:
        upload.write(b"\0")
    finally:
        upload.abort()
