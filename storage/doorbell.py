"""Doorbell: a Celery message that says that a job waits. It may be lost or come twice; the job record is the truth."""

import logging
from typing import Final

from celery import Celery
from kombu.exceptions import OperationalError

from storage.placement import DEFAULT_DEVICE
from storage.urls import make_broker_url

logger = logging.getLogger("faultline.storage")

TASK_NAME: Final = "faultline.run_audit"
SOCKET_TIMEOUT_S: Final = 2.0
RETRY_POLICY: Final = {"max_retries": 2, "interval_start": 0.0, "interval_step": 0.1, "interval_max": 0.2}


def name_queue(device: str) -> str:
    """Return the queue of the workers with this class of device.

    >>> name_queue("cpu")
    'faultline.cpu'
    """
    return f"faultline.{device}"


class Doorbell:
    """Rings for workers. `broker_url` may be spelt for redis-py or for kombu. Threads may share one."""

    def __init__(self, broker_url: str) -> None:
        self._app = Celery("faultline-doorbell", broker=make_broker_url(broker_url), set_as_current=False)
        self._app.conf.update(
            task_ignore_result=True,
            result_backend=None,
            task_serializer="json",
            accept_content=["json"],
            broker_connection_retry=False,
            broker_transport_options={"socket_timeout": SOCKET_TIMEOUT_S, "socket_connect_timeout": SOCKET_TIMEOUT_S},
        )

    def ring(self, job_id: str, device: str = DEFAULT_DEVICE) -> bool:
        """Tell the workers with this class of device of a job; False if the broker did not take it: a sweep will ring again."""
        try:
            self._app.send_task(TASK_NAME, args=[job_id], queue=name_queue(device), retry=True, retry_policy=RETRY_POLICY)
        except OperationalError as error:
            logger.warning("the doorbell for job %s did not ring, a sweep will ring again: %s", job_id, error)
            return False
        return True

    def close(self) -> None:
        """Let go of the broker's connections."""
        self._app.close()
