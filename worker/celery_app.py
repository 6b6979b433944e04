"""The Celery application of a worker. Its messages are doorbells; the job records in Redis are the truth."""

import logging
import warnings
from typing import Any

from celery import Celery, signals
from celery.exceptions import CPendingDeprecationWarning
from celery.platforms import SecurityWarning

from storage.doorbell import TASK_NAME
from worker.supervisor import Resources
from worker.tasks import register_tasks

SOCKET_TIMEOUT_S = 10.0


class Consumption:
    """Whether this worker's consumer is subscribed to its queue at the moment."""

    def __init__(self) -> None:
        self._consumer: Any = None

    @property
    def is_live(self) -> bool:
        """False before the first connection and while a lost one is being replaced."""
        consumer = self._consumer
        return consumer is not None and consumer.connection is not None and consumer.task_consumer is not None

    def watch(self) -> None:
        """Take the consumer when Celery has made it."""

        def attach(sender: object, **_: object) -> None:
            self._consumer = sender

        signals.worker_ready.connect(attach, weak=False)


def create_app(broker_url: str, resources: Resources) -> Celery:
    """Return the application with the one task bound to its resources."""
    app = Celery("faultline", broker=broker_url, set_as_current=False)
    app.conf.update(
        # A message is acknowledged when its job has ended: one that is lost or comes twice costs a claim, not a job.
        task_acks_late=True,
        worker_prefetch_multiplier=1,
        task_ignore_result=True,
        result_backend=None,
        accept_content=["json"],
        task_serializer="json",
        task_default_queue=resources.settings.queue,
        task_routes={TASK_NAME: {"queue": resources.settings.queue}},
        broker_connection_retry=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={"socket_timeout": SOCKET_TIMEOUT_S, "socket_connect_timeout": SOCKET_TIMEOUT_S},
        # True acknowledges a running job's message while its broker is away (docs/architecture/worker.md).
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
    )
    register_tasks(app, resources)
    return app


def run_worker(app: Celery, resources: Resources) -> None:
    """Consume until SIGTERM; returns when the running job has ended, been released or been left to its lease."""
    _keep_logging(resources.settings.log_level)

    def begin_drain(**_: object) -> None:
        resources.drain.begin()

    signals.worker_shutting_down.connect(begin_drain, weak=False)
    # Celery warns root because a pickled message could run as root; these are JSON and name a job.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    # It announces another default for the setting that `create_app` sets on purpose.
    warnings.filterwarnings("ignore", category=CPendingDeprecationWarning)
    # Threads, not processes: an accelerator's runtime does not survive a fork, and the audit has a process of its own.
    app.worker_main(
        [
            *("--quiet", "worker", "--pool", "threads", "--concurrency", "1", "--queues", resources.settings.queue),
            *("--hostname", f"{resources.worker}@faultline"),
            *("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING"),
        ]
    )


def _keep_logging(level: str) -> None:
    """Keep our own log settings: Celery leaves logging alone when somebody listens to this signal."""

    def leave_alone(**_: object) -> None:
        logging.getLogger("celery").setLevel(max(logging.WARNING, logging.getLevelName(level)))

    signals.setup_logging.connect(leave_alone, weak=False)
