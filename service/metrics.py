"""What the API counts, for Prometheus. No label holds an id, a name or an address that somebody chose."""

import os
from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from schemas.errors import FaultlineError, Unavailable
from schemas.version import ENGINE_VERSION, VERSION
from storage.queue import JobQueue

MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
MULTIPROCESS: Final = "PROMETHEUS_MULTIPROC_DIR"
"""prometheus_client's own variable: a folder that all processes behind one port share, so that any of them answers for all."""
OTHER: Final = "other"
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
BUCKETS: Final = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)

disable_created_metrics()  # a second series for each, which no query of ours would read
REGISTRY: Final = CollectorRegistry()
REQUESTS: Final = Counter("faultline_http_requests", "Answered requests", ["method", "route", "status"], registry=REGISTRY)
SECONDS: Final = Histogram(
    "faultline_http_request_seconds",
    "Time to the end of the answer; long polls are apart",
    ["method", "route", "waited"],
    buckets=BUCKETS,
    registry=REGISTRY,
)
RUNNING: Final = Gauge(
    "faultline_http_requests_running", "Requests that are being answered", registry=REGISTRY, multiprocess_mode="livesum"
)
REFUSALS: Final = Counter("faultline_refusals", "Problems answered, by their code", ["code"], registry=REGISTRY)
ACCEPTED: Final = Counter("faultline_jobs_accepted", "Jobs accepted", ["kind", "reused"], registry=REGISTRY)
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)


def note_request(method: str, route: str | None, status: int, seconds: float, *, waited: bool) -> None:
    """Count an answered request; `route` is the template of its path, None when there is no such path."""
    known = method if method in METHODS else OTHER
    place = route or "none"
    REQUESTS.labels(known, place, str(status)).inc()
    SECONDS.labels(known, place, "yes" if waited else "no").observe(seconds)


def note_refusal(code: str) -> None:
    """Count a problem that was answered."""
    REFUSALS.labels(code if code in KNOWN_CODES else OTHER).inc()


async def write_metrics(queue: JobQueue, device: str) -> bytes:
    """Return everything that is counted: by this process or, where they share a folder, by all of the port; and by the store."""
    registry = CollectorRegistry()
    await _read_store(registry, queue, device)
    shared = CollectorRegistry()
    if MULTIPROCESS in os.environ:
        MultiProcessCollector(shared)
    own = generate_latest(shared if MULTIPROCESS in os.environ else REGISTRY)
    return own + generate_latest(registry)


async def _read_store(registry: CollectorRegistry, queue: JobQueue, device: str) -> None:
    """Add what the store says at this moment; it is the same whichever process asks."""
    build = Gauge("faultline_build_info", "1; the labels say which program this is", ["version", "engine"], registry=registry)
    build.labels(VERSION, ENGINE_VERSION).set(1)
    reached = Gauge("faultline_store_up", "Whether the job store answers", registry=registry)
    try:
        gauges, workers = await queue.read_gauges(device), await queue.workers()
    except Unavailable:
        reached.set(0)
        return
    reached.set(1)
    jobs = Gauge("faultline_jobs", "Jobs in the store, by state", ["state"], registry=registry)
    for state, count in gauges.states.items():
        jobs.labels(state).set(count)
    single = {
        "faultline_jobs_pending": ("Jobs that wait for a worker", gauges.pending),
        "faultline_jobs_pending_oldest_seconds": ("Age of the oldest of them, 0 without one", gauges.oldest_pending_s),
        "faultline_leases": ("Jobs that a worker holds", gauges.leases),
        "faultline_leases_expired": ("Of these, those whose worker fell silent", gauges.leases_expired),
        "faultline_workers": ("Workers that have said lately that they take jobs", len(workers)),
    }
    for name, (about, value) in single.items():
        Gauge(name, about, registry=registry).set(value)
    bells = Gauge("faultline_doorbells", "Messages in the broker; one may be lost or come twice", ["device"], registry=registry)
    bells.labels(device).set(gauges.doorbells)
    waiting = Gauge(
        "faultline_jobs_waiting", "Of the pending jobs those that a worker could take now", ["device"], registry=registry
    )
    waiting.labels(device).set(gauges.waiting)
    layers = Gauge("faultline_sandbox_layer", "Whether the layer confines every audit", ["layer"], registry=registry)
    for layer in sorted({name for worker in workers for name in worker}):
        layers.labels(layer).set(all(worker.get(layer, False) for worker in workers))


def _walk_codes(kind: type[FaultlineError]) -> Iterator[str]:
    yield kind.code
    for child in kind.__subclasses__():
        yield from _walk_codes(child)


KNOWN_CODES: Final = frozenset(_walk_codes(FaultlineError))
