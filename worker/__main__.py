"""`python -m worker`: one worker process. Settings come from the environment; docs/operations.md lists them."""

import logging
import os
import sys

from schemas.errors import FaultlineError
from storage.artifacts import FileArtifactStore
from storage.connection import connect
from storage.doorbell import Doorbell
from storage.leases import Leases
from storage.urls import make_broker_url
from worker.celery_app import create_app, run_worker
from worker.drain import Drain
from worker.lease_sweeper import LeaseSweeper
from worker.process import ChildSpec
from worker.scratch import Scratch
from worker.settings import WorkerSettings, load_settings, make_worker_name
from worker.supervisor import Resources
from worker.warm import WarmChild, build_child_spec

BAD_CONFIGURATION = 3


def main() -> int:
    """Run until SIGTERM."""
    try:
        settings = load_settings()
    except FaultlineError as error:
        for fault in error.faults:
            sys.stderr.write(f"{fault.what} (got: {fault.got}); {fault.advice}\n")
        return BAD_CONFIGURATION
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    serve(settings, build_child_spec(settings, os.environ))
    return 0


def serve(settings: WorkerSettings, spec: ChildSpec) -> None:
    """Open the resources, consume, and close them in reverse order; `spec` says how audit processes are started."""
    name = make_worker_name()
    broker_url = make_broker_url(settings.redis_url)
    leases = Leases(connect(settings.redis_url), settings.lease_s)
    doorbell = Doorbell(broker_url, settings.queue)
    scratch = Scratch(settings.data_dir / "scratch", name)
    warm = WarmChild(spec, scratch.folder)
    drain = Drain(settings.drain_s)
    artifacts = FileArtifactStore(settings.data_dir / "artifacts")
    resources = Resources(name, settings, leases, artifacts, doorbell, warm, drain)
    sweeper = LeaseSweeper(leases, doorbell, name, settings.lease_s, lambda: warm.has_been_ready and not drain.begun)
    warm.start()
    sweeper.start()
    drain.guard()
    try:
        run_worker(create_app(broker_url, resources), resources)
    finally:
        sweeper.close()
        warm.close()
        scratch.close()


if __name__ == "__main__":
    sys.exit(main())
