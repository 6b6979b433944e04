"""Whether this deployment can take and finish audits."""

import asyncio
import logging

from schemas.about import Readiness
from schemas.errors import Fault, Unavailable
from storage.artifacts import ArtifactStore
from storage.queue import JobQueue

logger = logging.getLogger("faultline.service")


async def check_readiness(queue: JobQueue, store: ArtifactStore) -> Readiness:
    """Return how many workers and audits there are.

    Raises:
        Unavailable: with one fault per part that does not work.

    """
    faults: list[Fault] = []
    workers: list[dict[str, bool]] = []
    audits: dict[str, int] = {}
    try:
        await queue.ping()
        workers, audits = await queue.workers(), await queue.counts()
        faults += find_worker_faults(len(workers))
    except Unavailable as error:
        faults += error.faults
    try:
        await asyncio.to_thread(check_writable, store)
    except Unavailable as error:
        faults += error.faults
    if faults:
        logger.info("not ready: %s", "; ".join(f"{fault.what}, got {fault.got}" for fault in faults))
        raise Unavailable(*faults)
    return Readiness(status="ready", workers=len(workers), audits=audits, sandbox=find_common_layers(workers))


def find_common_layers(workers: list[dict[str, bool]]) -> dict[str, bool]:
    """Return which layers confine every audit, whichever worker gets it."""
    names = sorted({name for layers in workers for name in layers})
    return {name: all(layers.get(name, False) for layers in workers) for name in names}


def find_worker_faults(workers: int) -> list[Fault]:
    """Return what is wrong with the number of workers that announced themselves."""
    if workers > 0:
        return []
    advice = "Start a worker with `faultline worker`, or wait until one is up."
    return [Fault("no worker is there to take audits", "workers", "at least 1", str(workers), advice)]


def check_writable(store: ArtifactStore) -> None:
    """Write a byte into the store and take it back."""
    with store.begin("readiness") as upload:
        upload.write(b"\0")
