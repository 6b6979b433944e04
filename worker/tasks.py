"""The one Celery task: a thin actor over `answer_doorbell`."""

from celery import Celery

from storage.doorbell import TASK_NAME
from worker.supervisor import Resources, answer_doorbell


def register_tasks(app: Celery, resources: Resources) -> None:
    """Bind the task `faultline.run_audit(job_id)` to its resources."""

    def run_audit(job_id: str) -> None:
        answer_doorbell(job_id, resources)

    app.task(name=TASK_NAME)(run_audit)
