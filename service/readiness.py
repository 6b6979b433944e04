"""Whether this deployment can take and finish audits."""

import asyncio
import logging
import shutil

from schemas.about import Readiness
from schemas.errors import Fault, FaultlineError, Unavailable
from service.settings import Settings
from storage.artifacts import ArtifactStore
from storage.gauges import StoreGauges
from storage.queue import JobQueue

logger = logging.getLogger("faultline.service")


async def check_readiness(queue: JobQueue, store: ArtifactStore, settings: Settings) -> Readiness:
    """Return how many workers and audits there are.

    Raises:
        Unavailable: with one fault per part that does not work.

    """
    faults: list[Fault] = []
    try:
        await asyncio.to_thread(check_writable, store)
    except FaultlineError as error:
        faults += error.faults
    faults += find_disk_faults(settings)
    try:
        gauges, workers = await queue.read_gauges(settings.device), await queue.workers()
    except Unavailable as error:
        raise Unavailable(*_log([*error.faults, *faults])) from error
    faults = [*find_worker_faults(gauges, len(workers), settings.stuck_after_s), *faults]
    if faults:
        raise Unavailable(*_log(faults))
    return Readiness(
        status="ready",
        workers=len(workers),
        announced_s=gauges.announced_s,
        audits=gauges.states,
        oldest_queued_s=gauges.oldest_pending_s,
        sandbox=find_common_layers(workers),
    )


def _log(faults: list[Fault]) -> list[Fault]:
    logger.info("not ready: %s", "; ".join(f"{fault.what}, got {fault.got}" for fault in faults))
    return faults


def find_common_layers(workers: list[dict[str, bool]]) -> dict[str, bool]:
    """Return which layers confine every audit, whichever worker gets it."""
    names = sorted({name for layers in workers for name in layers})
    return {name: all(layers.get(name, False) for layers in workers) for name in names}


def find_worker_faults(gauges: StoreGauges, workers: int, stuck_after_s: float) -> list[Fault]:
    """Return what is wrong with the workers: none is there, or audits wait although none of them has any."""
    if workers == 0:
        advice = "Start a worker with `faultline worker`, or wait until one is up."
        return [Fault("no worker is there to take audits", "workers", "at least 1", str(workers), advice)]
    if gauges.leases > 0 or gauges.oldest_waiting_s <= stuck_after_s:
        return []
    advice = "Compare FAULTLINE_DEVICE of API and workers, and look into the workers' logs."
    got = f"{gauges.waiting} that wait, the oldest for {gauges.oldest_waiting_s:.0f} s"
    return [Fault("workers are there and take no audits", "workers", f"none that waits for {stuck_after_s:g} s", got, advice)]


def find_disk_faults(settings: Settings) -> list[Fault]:
    """Return what is wrong with the room for artifacts."""
    try:
        free = shutil.disk_usage(settings.data_dir).free
    except OSError:  # told by the attempt to write
        return []
    if free >= settings.min_free_bytes:
        return []
    advice = "Free space on the disk of FAULTLINE_DATA_DIR; uploads and reports need it."
    return [Fault("the disk is nearly full", "disk", f"at least {settings.min_free_bytes} bytes free", f"{free} bytes", advice)]


def check_writable(store: ArtifactStore) -> None:
    """Write a byte into the store and take it back."""
    with store.begin("readiness") as upload:
        upload.write(b"\0")
