"""The one Celery task: a thin actor over `run_job`."""

from celery import Celery

from storage.doorbell import TASK_NAME
from worker.supervisor import Resources, run_job


def register_tasks(app: Celery, resources: Resources) -> None:
    """Bind the task `faultline.run_audit(job_id)` to its resources."""

    def run_audit(job_id: str) -> None:
        run_job(job_id, resources)

    app.task(name=TASK_NAME)(run_audit)
