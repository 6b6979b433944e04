"""One audit through the API: upload, submit, wait, fetch."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from client.api import Client, FetchedReport
from client.display.figures import show_size
from client.display.progress import ProgressView
from client.errors import BadUsage
from client.files import LoadedReport
from client.handle import check_ended_well
from client.options import PreparedAudit
from schemas.errors import Fault
from schemas.job import Job
from schemas.policy import Policy
from schemas.references import Reference
from schemas.verdict import Verdict


class FinishedAudit(NamedTuple):
    """A succeeded audit. `verdict` is None when no policy was given."""

    job: Job
    report: FetchedReport
    verdict: Verdict | None


def run_audit(
    client: Client, prepared: PreparedAudit, baseline: LoadedReport | str | None, view: ProgressView, wait_s: float
) -> FinishedAudit:
    """Carry out one audit and return what it found; GaveUp when it takes too long, AuditFailed when it ends without a report."""
    policy = prepared.request.policy
    if isinstance(policy, Reference) and baseline is not None:
        what, advice = "a baseline needs the policy itself", "Name the policy's file on this machine with --policy."
        raise BadUsage(Fault(what, "--baseline", "a policy in the request", policy.uri, advice))
    upload_files(client, prepared.uploads, view)
    view.tell("Submitting the audit")
    job = client.submit(prepared.request, idempotency_key=uuid4().hex)
    view.note(f"Audit {job.id} is accepted by {client.server}")
    view.show_job(job)
    job = check_ended_well(client.wait(job, wait_s, view.show_job))
    view.tell("Fetching the report")
    return FinishedAudit(job, client.fetch_report(job.id), _judge(client, job, prepared.request.policy, baseline))


def upload_files(client: Client, files: Mapping[str, Path], view: ProgressView) -> None:
    """Send the files, by digest, that the server does not hold."""
    for digest, path in files.items():
        if not client.has_artifact(digest):
            view.tell(f"Uploading {path.name} ({show_size(path.stat().st_size)})")
            client.upload(path, digest, partial(view.show_bytes, f"Uploading {path.name}"))


def _judge(client: Client, job: Job, policy: Policy | Reference | None, baseline: LoadedReport | str | None) -> Verdict | None:
    """Return the verdict of the policy that came along; with a baseline it is asked for anew."""
    if policy is None:
        return None
    if baseline is None or isinstance(policy, Reference):
        return client.fetch_verdict(job.id)
    return client.judge(policy, job.id, baseline.content if isinstance(baseline, LoadedReport) else baseline)
