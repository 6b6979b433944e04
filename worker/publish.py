"""From the child's measurement, which is not trusted, to a published report and its verdict."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel

from gate.evaluate import evaluate
from schemas.base import canonical_bytes
from schemas.inspection import InspectionFigures
from schemas.kinds import JobRequest
from schemas.plan import PlannedAudit, UnsupportedFigures
from schemas.policy import Policy
from schemas.report import Measurement, Report
from schemas.request import AuditRequest
from storage.artifacts import ArtifactStore
from storage.references import touch_results
from worker.messages import Finding, refuse_output
from worker.report import assemble_inspection, assemble_plan, assemble_report, assemble_unsupported
from worker.watch import check_plain_file

PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class Published:
    """A stored report, and the outcome of the policy that came with the request, if one did.

    complete: whether the report answers equal requests too.
    """

    report_sha256: str
    verdict: str | None
    complete: bool = True


@dataclass(frozen=True)
class Origin:
    """What a result is about, from trusted sources: the job record and the artifact store."""

    owner: str
    request: JobRequest
    request_digest: str
    model_size_bytes: int


def publish(origin: Origin, found: Finding, scratch: Path, artifacts: ArtifactStore, size_limit: int) -> Published:
    """Return what was found, stored: a report with its counterexamples and its verdict, a plan or an inspection.

    Call it when the audit process is dead: its files cannot change any more.

    Raises:
        WorkerFault: when it names files that it must not, or holds what no document may hold.
    """
    request, digest, size = origin.request, origin.request_digest, origin.model_size_bytes
    if isinstance(found, Measurement) and isinstance(request, AuditRequest):
        files = find_counterexamples(found, scratch, size_limit)
        digests = {finding: artifacts.put_file(origin.owner, path) for finding, path in files.items()}
        report = assemble_report(request, digest, found, size, digests)
        sha256 = artifacts.put_bytes(origin.owner, _encode(report))
        return Published(sha256, _judge(request, report, sha256), report.complete)
    document: BaseModel
    if isinstance(found, PlannedAudit) and isinstance(request, AuditRequest):
        document = assemble_plan(request, digest, found, size)
    elif isinstance(found, UnsupportedFigures) and isinstance(request, AuditRequest):
        document = assemble_unsupported(request, found, size)
    elif isinstance(found, InspectionFigures):
        document = assemble_inspection(request.model.uri, found, size)
    else:
        refuse_output(f"a {type(found).__name__} where the job asks for something else")
    return Published(artifacts.put_bytes(origin.owner, _encode(document)), None)


def find_published(owner: str, request: JobRequest, digest: str, artifacts: ArtifactStore) -> Published | None:
    """Return the finished report of an equal audit, judged by this request's policy; None when it is gone."""
    path = artifacts.path(owner, digest)
    if path is None or not touch_results(artifacts, owner, digest):
        return None
    if not isinstance(request, AuditRequest) or not isinstance(request.policy, Policy):
        return Published(digest, None)
    return Published(digest, _judge(request, Report.model_validate_json(path.read_bytes()), digest))


def find_counterexamples(measurement: Measurement, scratch: Path, size_limit: int) -> dict[str, Path]:
    """Return the files by finding.

    Raises:
        WorkerFault: when a name is more than a name, a file is a link or missing, or all are too large.
    """
    findings = {finding.id for finding in measurement.findings}
    files, total = {}, 0
    for finding, name in measurement.counterexamples.items():
        if finding not in findings or not PLAIN_NAME.fullmatch(name):
            refuse_output("a counterexample that belongs to no finding or has no plain file name")
        path = scratch / name
        try:
            total += check_plain_file(path)
        except ValueError as error:
            refuse_output(f"a counterexample that is no file of its own: {error}")
        files[finding] = path
    if total > size_limit:
        refuse_output(f"counterexamples of {total} bytes, above the limit of {size_limit}")
    return files


def _encode(document: BaseModel) -> bytes:
    try:
        return canonical_bytes(document)
    except (ValueError, RecursionError) as error:  # NaN in a free-form field, half a surrogate pair, bottomless nesting
        refuse_output(f"a value that no report may hold: {type(error).__name__}")


def _judge(request: JobRequest, report: Report, digest: str) -> str | None:
    if not isinstance(request, AuditRequest) or not isinstance(request.policy, Policy):
        return None
    return evaluate(request.policy, report, digest, datetime.now(UTC).date()).outcome
