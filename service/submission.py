"""Accepts audits: the artifacts must be there, the key must fit, equal requests give equal jobs."""

import asyncio
import logging
from collections.abc import Awaitable
from dataclasses import replace

from fastapi import Request

from schemas.base import canonical_bytes, compute_sha256
from schemas.errors import Fault, InvalidRequest
from schemas.job import JobKind
from schemas.kinds import REQUESTS, JobRequest, compute_request_digest
from schemas.policy_files import MAX_POLICY_BYTES, describe_faults, parse_policy
from schemas.references import ARTIFACT, read_place
from schemas.request import AuditRequest
from schemas.version import ENGINE_VERSION
from service.acceptance import accept_with_files
from service.bodies import read_document
from service.metrics import ACCEPTED
from service.placement import place
from service.resources import Resources
from service.strict_json import check_json
from storage.artifacts import ArtifactStore
from storage.doorbell import Doorbell
from storage.placement import DEFAULT_DEVICE
from storage.queue import Accepted
from storage.sources.hooks import WebhookRules
from telemetry.spans import span

logger = logging.getLogger("faultline.service")
MAX_KEY_CHARACTERS = 255


async def read_submission(request: Request, limit: int, kind: JobKind) -> tuple[JobRequest, str | None]:
    """Return the posted request of a kind of job, and its Idempotency-Key.

    Raises:
        InvalidRequest: with what is wrong in both.

    """
    keys = request.headers.getlist("idempotency-key")
    faults = find_key_faults(keys)
    document = await read_document(request, limit)
    try:
        posted = check_json(REQUESTS[kind], *document)
    except InvalidRequest as error:
        raise InvalidRequest(*faults, *error.faults) from None
    if faults:
        raise InvalidRequest(*faults)
    return posted, keys[0] if keys else None


async def submit(held: Resources, owner: str, request: JobRequest, key: str | None, kind: JobKind) -> Accepted:
    """Put `request` into the queue, or find the job that it is already."""
    placement = place(request, owner, held.settings)
    await check_files(held.artifacts, held.settings, owner, request)
    digest = compute_request_digest(request, ENGINE_VERSION, kind)
    body = canonical_bytes(request) + (b"" if kind == "audit" else kind.encode())
    with span("accept", kind="producer", attributes={"faultline.job.kind": kind}) as one:

        def accept() -> Awaitable[Accepted]:
            return held.queue.accept(request, owner, digest, key, compute_sha256(body), kind, str(one.place), placement)

        accepted = await accept_with_files(held.queue, held.artifacts, request, accept)
        one.attributes["faultline.job.id"] = accepted.record.id
    if accepted.created:
        ACCEPTED.labels(kind, "yes" if accepted.reused else "no").inc()
        logger.info("job %s of kind %s accepted", accepted.record.id, kind)
    return accepted


async def check_files(store: ArtifactStore, rules: WebhookRules, owner: str, request: JobRequest) -> None:
    """Check that everything the request names was uploaded, or may be fetched as far as that can be told from here.

    Raises:
        InvalidRequest: with one fault per reference that leads nowhere.

    """
    faults = []
    for part, uri, sha256 in request.list_references():
        fault = rules.find_fault(uri, owner, pinned=sha256 is not None)
        if fault is not None:
            faults.append(replace(fault, where=f"/{part}/uri"))
        elif uri.startswith(ARTIFACT) and await asyncio.to_thread(store.path, owner, read_place(uri).name) is None:
            advice = f"Upload the file with PUT /v1/artifacts/{read_place(uri).name} first."
            faults.append(Fault(f"the {part} was not uploaded", f"/{part}/uri", "an artifact in the store", uri, advice))
        elif uri.startswith(ARTIFACT) and part == "policy":
            faults += await asyncio.to_thread(_find_policy_faults, store, owner, read_place(uri).name)
    webhook = request.webhook if isinstance(request, AuditRequest) else None
    fault = None if webhook is None else rules.find_webhook_fault(webhook.url)
    if fault is not None:
        faults.append(replace(fault, where="/webhook/url"))
    if faults:
        raise InvalidRequest(*faults)


def _find_policy_faults(store: ArtifactStore, owner: str, sha256: str) -> tuple[Fault, ...]:
    path = store.path(owner, sha256)
    if path is None:
        return ()
    try:
        with path.open("rb") as file:
            parse_policy(file.read(MAX_POLICY_BYTES + 1))
    except InvalidRequest as error:
        return describe_faults(error, "/policy/uri")
    return ()


def find_key_faults(keys: list[str]) -> list[Fault]:
    """Return what is wrong with the values of Idempotency-Key headers."""
    expected = f"one value of 1 to {MAX_KEY_CHARACTERS} visible ASCII characters"
    fine = len(keys) <= 1 and all(0 < len(key) <= MAX_KEY_CHARACTERS and key.isascii() and key.isprintable() for key in keys)
    if fine:
        return []
    got = f"{len(keys)} headers" if len(keys) > 1 else f"{len(keys[0])} characters"
    advice = "Send one fresh random value, such as a UUID, and the same one when you try again."
    return [Fault("the Idempotency-Key cannot be used", "header: Idempotency-Key", expected, got, advice)]


def ring(doorbell: Doorbell, job_id: str, device: str | None) -> None:
    """Tell the workers of a job; if that fails it is only late, for their sweeper finds it in the queue."""
    try:
        doorbell.ring(job_id, device or DEFAULT_DEVICE)
    except Exception:
        logger.warning("the doorbell for job %s did not ring; a sweep will find it", job_id, exc_info=True)
