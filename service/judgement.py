"""Judges stored and posted reports by policies."""

import asyncio
import json
from datetime import UTC, date, datetime
from typing import Any, NamedTuple

from gate.evaluate import evaluate
from schemas.base import canonical_bytes, compute_sha256
from schemas.errors import Fault, InvalidRequest, NotFound
from schemas.policy import Policy
from schemas.policy_files import parse_policy
from schemas.references import read_place
from schemas.report import Report
from schemas.verdict import Verdict
from schemas.verdict_request import VerdictRequest
from service.bodies import Document
from service.polling import find_nothing
from service.reports import load_report, open_report, read_report_digest
from service.strict_json import check_json
from storage.artifacts import ArtifactStore
from storage.queue import JobQueue
from storage.records import JobRecord


class Judged(NamedTuple):
    """A report with the digest of its canonical bytes."""

    report: Report
    sha256: str


def find_today() -> date:
    """Return the day that waivers expire against."""
    return datetime.now(UTC).date()


async def settle_verdict(queue: JobQueue, store: ArtifactStore, record: JobRecord) -> JobRecord:
    """Return the job with its verdict noted, if it was answered with an earlier report and came with a policy."""
    # A worker notes the verdict of what it ran; nobody runs a job whose report was there already.
    if not record.reused or record.verdict is not None or record.ended_at is None:
        return record
    if json.loads(record.request)["policy"] is None:
        return record
    policy = await read_policy(store, record)
    judged = await _load_judged(store, record)
    verdict = await asyncio.to_thread(evaluate, policy, *judged, record.ended_at.date())
    return await queue.set_verdict(record.id, record.owner, verdict.outcome) or record


async def read_policy(store: ArtifactStore, record: JobRecord) -> Policy:
    """Return the policy that was posted with the audit, or that lay where the audit said.

    Raises:
        NotFound: if that file is gone.

    """
    given = json.loads(record.request)["policy"]
    if "uri" not in given:
        return Policy.model_validate(given)
    sha256 = record.files.get("policy") or given["sha256"] or read_place(given["uri"]).name
    path = await asyncio.to_thread(store.path, record.owner, sha256)
    if path is None:
        advice = "Post the policy to POST /v1/verdicts with this audit_id."
        raise NotFound(Fault("the audit's policy is not in the store any more", "path: audit_id", "its file", sha256, advice))
    return parse_policy(await asyncio.to_thread(path.read_bytes))


async def judge_audit(store: ArtifactStore, record: JobRecord) -> Verdict:
    """Return what the policy posted with the audit says of its report today.

    Raises:
        NotFound: if the audit came without a policy.

    """
    if json.loads(record.request)["policy"] is None:
        advice = "Post a policy of your own to POST /v1/verdicts with this audit_id."
        raise NotFound(Fault("the audit came without a policy", "path: audit_id", "an audit with a policy", record.id, advice))
    judged = await _load_judged(store, record)  # first: until there is a report, a policy need not have been fetched
    policy = await read_policy(store, record)
    return await asyncio.to_thread(evaluate, policy, *judged, find_today())


async def judge_posted(queue: JobQueue, store: ArtifactStore, owner: str, document: Document) -> Verdict:
    """Return the verdict that a posted VerdictRequest asks for.

    Raises:
        InvalidRequest: if the document is malformed or names audits that are not there.

    """
    request = await asyncio.to_thread(check_json, VerdictRequest, *document)
    wanted = {"/audit_id": request.audit_id, "/baseline": request.baseline}
    records = {where: await queue.get(name, owner) for where, name in wanted.items() if isinstance(name, str)}
    missing = [
        find_nothing(str(wanted[where]), where) for where, record in records.items() if record is None or record.kind != "audit"
    ]
    if missing:
        raise InvalidRequest(*missing)
    stored = {where: await _load_judged(store, record) for where, record in records.items() if record is not None}
    report = stored.get("/audit_id") or _wrap(request.report, document.content.get("report"))
    baseline = stored.get("/baseline") or _wrap(request.baseline, document.content.get("baseline"))
    if report is None:  # the contract asks for one of the two
        raise InvalidRequest(Fault("there is no report", "/report", "report or audit_id", "neither", "Give one of the two."))
    return await asyncio.to_thread(evaluate, request.policy, *report, find_today(), baseline)


def _wrap(report: object, content: Any) -> Judged | None:
    """Return a posted report with its digest, which is that of the document as posted, unknown fields included."""
    return Judged(report, compute_sha256(canonical_bytes(content))) if isinstance(report, Report) else None


async def _load_judged(store: ArtifactStore, record: JobRecord) -> Judged:
    file = await open_report(store, record)
    return Judged(await asyncio.to_thread(load_report, file), read_report_digest(record))
