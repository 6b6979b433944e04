"""`python -m worker [--check]`: one worker process. Settings come from the environment; docs/operations.md lists them.

--check attacks the sandbox that audits would run in, prints what stopped each attack, and ends: 0 all stopped, 1 not.
"""

import argparse
import logging
import os
import sys

from schemas.errors import FaultlineError, InvalidRequest, SandboxTooWeak
from schemas.version import VERSION
from storage.artifacts import FileArtifactStore
from storage.connection import connect
from storage.doorbell import Doorbell
from storage.leases import Leases
from storage.outbox import Outbox
from storage.urls import make_broker_url
from telemetry.exporter import Exporter
from telemetry.logs import set_up_logs
from worker.celery_app import Consumption, create_app, run_worker
from worker.check import check_sandbox, find_layers
from worker.confine import check_layers
from worker.drain import Drain
from worker.fetching.fetch import Fetcher
from worker.janitor import build_janitor
from worker.lease_sweeper import LeaseSweeper
from worker.metrics import serve_metrics, watch_worker
from worker.process import ChildSpec
from worker.scratch import Scratch
from worker.settings import WorkerSettings, load_settings, make_worker_name
from worker.supervisor import Resources
from worker.warm import WarmChild, build_child_spec
from worker.webhooks.courier import Courier

log = logging.getLogger("worker")

FAILED, BAD_CONFIGURATION = 2, 3


def main() -> int:
    """Run until SIGTERM."""
    parser = argparse.ArgumentParser(prog="faultline worker", description=__doc__)
    parser.add_argument("--check", action="store_true", help="attack the sandbox and print what stopped each attack")
    check = parser.parse_args().check
    if check:  # needs no store
        os.environ.setdefault("REDIS_URL", "redis://127.0.0.1")
    try:
        settings = load_settings()
    except InvalidRequest as error:
        return _complain(error, BAD_CONFIGURATION)
    if check:
        return check_sandbox(settings)
    set_up_logs(settings.log_level, settings.log_format)
    try:
        serve(settings, build_child_spec(settings, os.environ))
    except (InvalidRequest, SandboxTooWeak) as error:
        return _complain(error, BAD_CONFIGURATION)
    except FaultlineError as error:
        return _complain(error, FAILED)
    return 0


def _complain(error: FaultlineError, code: int) -> int:
    for fault in error.faults:
        sys.stderr.write(f"{fault.what} (got: {fault.got}); {fault.advice}\n")
    return code


def serve(settings: WorkerSettings, spec: ChildSpec) -> None:
    """Open the resources, consume, and close them in reverse order; `spec` says how audit processes are started."""
    name = make_worker_name()
    layers = find_layers(settings)
    log.info("audits are confined by: %s", ", ".join(layer for layer, holds in layers.items() if holds) or "nothing")
    check_layers(layers, settings.sandbox)
    port = serve_metrics(settings)
    if port is not None:
        log.info("metrics are at http://%s:%d/metrics", settings.metrics_host, port)
    broker_url = make_broker_url(settings.redis_url)
    artifacts = FileArtifactStore(settings.data_dir / "artifacts")
    leases = Leases(connect(settings.redis_url), settings.lease_s)
    doorbell = Doorbell(broker_url)
    scratch = Scratch(settings.data_dir / "scratch", name)
    warm = WarmChild(spec, scratch.folder)
    drain = Drain(settings.drain_s)
    fetcher = Fetcher(settings, artifacts, settings.data_dir)
    resources = Resources(name, settings, leases, artifacts, doorbell, warm, drain, fetcher)
    consumption = Consumption()
    consumption.watch()

    def is_serving() -> bool:
        return warm.has_been_ready and consumption.is_live and not drain.begun

    watch_worker(lambda: warm.wait(0), is_serving, layers)
    courier = Courier(Outbox(connect(settings.redis_url)), settings)
    sweeper = LeaseSweeper(leases, doorbell, name, settings.device, settings.lease_s, is_serving, layers)
    exporter = None if settings.otlp_endpoint is None else Exporter.open("faultline-worker", VERSION, settings.otlp_endpoint)
    warm.start()
    sweeper.start()
    courier.start()
    janitor = build_janitor(settings, artifacts, name)
    janitor.start()
    drain.guard()
    try:
        run_worker(create_app(broker_url, resources), resources)
    finally:
        courier.close()
        janitor.close()
        sweeper.close()
        warm.close()
        scratch.close()
        if exporter is not None:
            exporter.close()


if __name__ == "__main__":
    sys.exit(main())
