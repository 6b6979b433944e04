"""From the child's measurement, which is not trusted, to a published report and its verdict."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from gate.evaluate import evaluate
from schemas.base import canonical_bytes
from schemas.report import Measurement, Report
from schemas.request import AuditRequest
from storage.artifacts import ArtifactStore
from worker.messages import refuse_output
from worker.report import assemble_report
from worker.watch import check_plain_file

PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class Published:
    """A stored report, and the outcome of the policy that came with the request, if one did."""

    report_sha256: str
    verdict: str | None


@dataclass(frozen=True)
class Origin:
    """What a report is about, from trusted sources: the job record and the artifact store."""

    owner: str
    request: AuditRequest
    request_digest: str
    model_size_bytes: int


def publish(origin: Origin, measurement: Measurement, scratch: Path, artifacts: ArtifactStore, size_limit: int) -> Published:
    """Return the report and its verdict, stored together with its counterexamples.

    Call it when the audit process is dead: its files cannot change any more.

    Raises:
        WorkerFault: when the measurement names files that it must not, or holds what no report may hold.
    """
    files = find_counterexamples(measurement, scratch, size_limit)
    digests = {finding: artifacts.put_file(origin.owner, path) for finding, path in files.items()}
    report = assemble_report(origin.request, origin.request_digest, measurement, origin.model_size_bytes, digests)
    content = _encode(report)
    digest = artifacts.put_bytes(origin.owner, content)
    return Published(digest, _judge(origin.request, report, digest))


def find_published(owner: str, request: AuditRequest, digest: str, artifacts: ArtifactStore) -> Published | None:
    """Return the finished report of an equal audit, judged by this request's policy; None when it is gone."""
    path = artifacts.path(owner, digest)
    if path is None:
        return None
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


def _encode(report: Report) -> bytes:
    try:
        return canonical_bytes(report)
    except (ValueError, RecursionError) as error:  # NaN in a free-form field, half a surrogate pair, bottomless nesting
        refuse_output(f"a value that no report may hold: {type(error).__name__}")


def _judge(request: AuditRequest, report: Report, digest: str) -> str | None:
    if request.policy is None:
        return None
    return evaluate(request.policy, report, digest, datetime.now(UTC).date()).outcome
