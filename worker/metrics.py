"""What a worker counts, for Prometheus on a port of its own. No label holds what a request or an audit process could choose."""

from collections.abc import Callable, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, start_http_server
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from schemas.errors import Fault, InvalidRequest
from schemas.report import Measurement
from worker.accelerator import Accelerator
from worker.account import Account
from worker.phases import find_seconds
from worker.settings import WorkerSettings

PHASES: Final = frozenset(
    {"loading", "admitting", "gradient", "breaking_points", "search", "bit_flips", "writing", "comparing", "timing"}
)
OTHER: Final = "other"
JOB_BUCKETS: Final = (0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14400.0)
CELL_BUCKETS: Final = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)

disable_created_metrics()
REGISTRY: Final = CollectorRegistry()
ATTEMPTS: Final = Counter("faultline_attempts", "Attempts, by what became of them", ["kind", "outcome"], registry=REGISTRY)
REFUSALS: Final = Counter("faultline_refusals", "Jobs that ended in a problem, by its code", ["code"], registry=REGISTRY)
JOB_SECONDS: Final = Histogram(
    "faultline_job_seconds", "From claim to end of an attempt", ["kind"], buckets=JOB_BUCKETS, registry=REGISTRY
)
PHASE_SECONDS: Final = Counter("faultline_engine_seconds", "Time of the audit processes, by phase", ["phase"], registry=REGISTRY)
PASSES: Final = Counter(
    "faultline_passes",
    "Passes over all of the data; by faultline_engine_seconds_total it is passes per second",
    ["direction"],
    registry=REGISTRY,
)
CELLS: Final = Counter("faultline_cells", "Corruption sets searched in one scope each", registry=REGISTRY)
CELL_SECONDS: Final = Histogram(
    "faultline_cell_seconds", "Mean time of a cell, one sample for each audit", buckets=CELL_BUCKETS, registry=REGISTRY
)
WARM: Final = Gauge("faultline_warm", "Whether an audit process is ready for the next job", registry=REGISTRY)
CONSUMING: Final = Gauge("faultline_consuming", "Whether this worker takes jobs", registry=REGISTRY)
LAYERS: Final = Gauge("faultline_sandbox_layer", "Whether the layer confines audits here", ["layer"], registry=REGISTRY)
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)


def count_attempt(account: Account) -> None:
    """Count an attempt that is over."""
    kind = account.claim.kind
    ATTEMPTS.labels(kind, account.outcome).inc()
    JOB_SECONDS.labels(kind).observe(account.seconds)
    if account.code is not None:
        REFUSALS.labels(account.code).inc()
    for phase in account.phases[1:]:  # the first is the whole of them
        PHASE_SECONDS.labels(phase.name if phase.name in PHASES else OTHER).inc(phase.seconds)
    if account.measurement is not None:
        _count_work(account.measurement, find_seconds(account.phases, "search"))


def _count_work(found: Measurement, search_s: float) -> None:
    spent = [finding.passes for finding in found.findings]
    spent += [point.passes for point in found.breaking_points]
    spent += [flips.passes for flips in found.bit_flips]
    PASSES.labels("forward").inc(sum(passes.forward for passes in spent))
    PASSES.labels("backward").inc(sum(passes.backward for passes in spent))
    CELLS.inc(len(found.findings))
    if found.findings:
        CELL_SECONDS.observe(search_s / len(found.findings))


def watch_worker(is_warm: Callable[[], bool], is_serving: Callable[[], bool], layers: Mapping[str, bool]) -> None:
    """Show at every scrape whether the worker is warm and takes jobs, and how it confines audits."""
    WARM.set_function(is_warm)
    CONSUMING.set_function(is_serving)
    for layer, holds in layers.items():
        LAYERS.labels(layer).set(holds)


def serve_metrics(settings: WorkerSettings) -> int | None:
    """Answer scrapes from a thread.

    Returns:
        The port, None when none is configured.

    Raises:
        InvalidRequest: when the port cannot be used.
    """
    if settings.metrics_port is None:
        return None
    if settings.device == "cuda":
        _watch_accelerator()
    try:
        server, _ = start_http_server(settings.metrics_port, addr=settings.metrics_host, registry=REGISTRY)
    except OSError as error:
        where = f"{settings.metrics_host}:{settings.metrics_port}"
        advice = "give each worker of a machine its own FAULTLINE_METRICS_PORT, or 0 for a free one"
        raise InvalidRequest(
            Fault(what=f"metrics cannot be served: {error.strerror}", where="FAULTLINE_METRICS_PORT", got=where, advice=advice)
        ) from None
    return int(server.server_port)


def _watch_accelerator() -> None:
    accelerator = Accelerator.find()
    if accelerator is None:
        return
    used = Gauge("faultline_accelerator_memory_used_bytes", "Accelerator's memory in use, by anybody", registry=REGISTRY)
    total = Gauge("faultline_accelerator_memory_bytes", "Memory of the accelerator", registry=REGISTRY)
    used.set_function(lambda: accelerator.measure_memory().used)
    total.set_function(lambda: accelerator.measure_memory().total)
