"""Client: Faultline's HTTP API as typed calls, for scripts and for the `faultline` command.

with Client("http://127.0.0.1:8321") as client:
    audit = client.audit(Path("model.onnx"), Path("digits.npz"), policy=Path("policy.yaml"))
    report, verdict = audit.report(), audit.verdict()
"""

import hashlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar
from urllib.parse import quote, urlencode
from uuid import uuid4

import httpx2
from pydantic import BaseModel, ValidationError

from client.errors import AuditFailed, BadAnswer, GaveUp
from client.files import hash_file
from client.handle import AuditHandle, read_policy
from client.transport import Body, Transport, read_refusal
from client.uploading import RESUMABLE_BYTES, OnProgress, send_file
from schemas.about import About
from schemas.base import canonical_bytes, compute_sha256
from schemas.errors import Fault
from schemas.inspection import Inspection, InspectionRequest
from schemas.job import TERMINAL_STATES, Job
from schemas.keys import KeyInfo, KeyPage, KeyRotation, MadeKey, NewKey
from schemas.plan import Plan, PlanAnswer, UnsupportedPlan
from schemas.policy import Policy
from schemas.report import Report
from schemas.request import AuditRequest
from schemas.validation import check_document
from schemas.verdict import Verdict

JSON = {"content-type": "application/json"}
KEYS = "/v1/keys"
SHA256_LETTERS = 64
POLL_S = 20
"""How long the server is asked to hold a question back until the audit changes."""

AnswerT = TypeVar("AnswerT", bound=BaseModel)


class FetchedReport(NamedTuple):
    """A report with its canonical bytes and their digest, which was checked."""

    report: Report
    content: bytes
    sha256: str


class FetchedPlan(NamedTuple):
    """A plan with its canonical bytes."""

    plan: Plan | UnsupportedPlan
    content: bytes


class FetchedInspection(NamedTuple):
    """An inspection with its canonical bytes."""

    inspection: Inspection
    content: bytes


class Client:
    """One server. `key` is sent as a bearer token; calls are repeated for up to `patience_s` while it does not answer."""

    def __init__(self, server: str, key: str | None = None, patience_s: float = 30.0) -> None:
        self._transport = Transport(server, key, patience_s)

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the connections."""
        self._transport.close()

    @property
    def server(self) -> str:
        """The server's base address."""
        return self._transport.server

    def read_about(self) -> About:
        """Return the server's version and limits."""
        return self._ask(About, "GET", "/v1")

    def has_artifact(self, sha256: str) -> bool:
        """Tell whether the server holds a file."""
        response = self._transport.call("HEAD", f"/v1/artifacts/{sha256}")
        if response.status_code == httpx2.codes.NOT_FOUND:
            return False
        if response.status_code >= 400:
            raise read_refusal(response)
        return True

    def upload(self, path: Path, sha256: str | None = None, on_progress: OnProgress | None = None) -> str:
        """Return the reference that a request names a file by; the file is sent unless the server holds it already.

        A large file goes on where a connection broke. `on_progress` hears how many bytes of how many were sent.
        """
        digest = sha256 or hash_file(path)
        if self.has_artifact(digest):
            return f"artifact:sha256:{digest}"
        if path.stat().st_size >= RESUMABLE_BYTES:
            send_file(self._transport, path, digest, on_progress or (lambda _sent, _size: None))
        else:
            headers = {"content-type": "application/octet-stream", "content-length": str(path.stat().st_size)}
            self._call("PUT", f"/v1/artifacts/{digest}", headers=headers, body=path)
        return f"artifact:sha256:{digest}"

    def download(self, sha256: str, target: Path) -> None:
        """Fetch a file and check its digest.

        Raises:
            BadAnswer: when the bytes are not what the digest says.

        """
        digest = hashlib.sha256()
        with target.open("wb") as file:

            def write(chunk: bytes) -> None:
                digest.update(chunk)
                file.write(chunk)

            self._transport.stream(f"/v1/artifacts/{sha256}", write)
        if digest.hexdigest() != sha256:
            raise BadAnswer(
                Fault("the file is not what its digest says", str(target), sha256, digest.hexdigest(), "Fetch it again.")
            )

    def submit(self, request: AuditRequest | Mapping[str, Any], idempotency_key: str | None = None) -> Job:
        """Post an audit; sent again under one key while the server does not answer, so that it becomes one job."""
        checked = request if isinstance(request, AuditRequest) else check_document(AuditRequest, dict(request))
        headers = {**JSON, "idempotency-key": idempotency_key or uuid4().hex}
        return self._ask(Job, "POST", "/v1/audits", headers=headers, body=canonical_bytes(checked))

    def audit(
        self,
        model: Path | str,
        data: Path | str,
        *,
        policy: Policy | Mapping[str, Any] | Path | None = None,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> AuditHandle:
        """Upload what the server does not hold, post the audit, and return a handle of it at once.

        Args:
            model: a file, or a reference that the server reads itself.
            data: the same of the examples.
            policy: what to judge the report by.
            idempotency_key: under which the audit is one, however often this is called; else it is one for each call.
            fields: the rest of the request, as in its contract: sets, scopes, search, ... What `data` and `model` hold
                beside the file is given as `data_options` and `model_options`.

        Returns:
            The handle.

        """
        named = {"model": model, "data": data}
        request = {part: {**fields.pop(f"{part}_options", {}), "uri": self._refer(where)} for part, where in named.items()}
        judged = {} if policy is None else {"policy": read_policy(policy).model_dump(mode="json")}
        return AuditHandle(self, self.submit({**request, **judged, **fields}, idempotency_key))

    def find_audit(self, audit_id: str) -> AuditHandle:
        """Return a handle of an audit that was posted before."""
        return AuditHandle(self, self.fetch_job(audit_id))

    def _refer(self, where: Path | str) -> str:
        return self.upload(where) if isinstance(where, Path) else where

    def fetch_job(self, job_id: str, after: Job | None = None, wait_s: int = 0) -> Job:
        """Return the audit's job; with `after` and `wait_s`, as soon as it is no longer that revision or the wait is over."""
        headers = {"prefer": f"wait={wait_s}"} if wait_s else {}
        if after is not None:
            headers["if-none-match"] = f'"{after.revision}"'
        response = self._transport.call("GET", _audit(job_id), headers=headers, answer_s=wait_s + 30)
        if response.status_code == httpx2.codes.NOT_MODIFIED and after is not None:
            return after
        return _read(Job, response)

    def wait(self, job: Job, timeout_s: float, on_change: Callable[[Job], None] | None = None) -> Job:
        """Return the job when it has ended, however it ended.

        Raises:
            GaveUp: when it has not ended in time.

        """
        give_up = time.monotonic() + timeout_s
        while job.state not in TERMINAL_STATES:
            left_s = give_up - time.monotonic()
            if left_s <= 0:
                raise GaveUp(job, timeout_s)
            changed = self.fetch_job(job.id, after=job, wait_s=max(1, min(POLL_S, round(left_s))))
            if changed is not job and on_change is not None:
                on_change(changed)
            job = changed
        return job

    def cancel(self, job_id: str) -> Job:
        """Cancel an audit: a queued one at once, a running one soon."""
        return self._ask(Job, "DELETE", _audit(job_id))

    def delete(self, name: str) -> None:
        """Delete what is kept of an audit that has ended, or the file that has `name` as its sha-256."""
        is_file = len(name) == SHA256_LETTERS
        self._call("DELETE", f"/v1/artifacts/{quote(name, safe='')}" if is_file else f"{_audit(name)}/report")

    def fetch_report(self, job_id: str) -> FetchedReport:
        """Return the report of a succeeded audit.

        Raises:
            AuditFailed: when the audit ended without one.
            BadAnswer: when the bytes are not what their digest says.

        """
        response = self._transport.call("GET", f"{_audit(job_id)}/report")
        if response.status_code == httpx2.codes.CONFLICT:
            refusal = read_refusal(response)
            raise AuditFailed(refusal.problem) if refusal.problem.code != "conflict" else refusal
        report, sha256 = _read(Report, response), compute_sha256(response.content)
        promised = response.headers.get("etag", "").removeprefix("W/").strip('"')
        if sha256 != promised:
            raise BadAnswer(Fault("the report is not what its digest says", job_id, promised, sha256, "Fetch it again."))
        return FetchedReport(report, response.content, sha256)

    def fetch_verdict(self, job_id: str) -> Verdict:
        """Return the verdict by the policy that came with the audit."""
        return self._ask(Verdict, "GET", f"{_audit(job_id)}/verdict")

    def judge(self, policy: Policy, job_id: str, baseline: str | Mapping[str, Any] | None = None) -> Verdict:
        """Return the verdict of a policy on a finished audit; `baseline` is another audit's id or a report document."""
        body = canonical_bytes({"policy": policy.model_dump(mode="json"), "audit_id": job_id, "baseline": baseline})
        return self._ask(Verdict, "POST", "/v1/verdicts", headers=JSON, body=body)

    def plan(
        self, request: AuditRequest | Mapping[str, Any], timeout_s: float = 600, on_wait: Callable[[Job], None] | None = None
    ) -> FetchedPlan:
        """Return what an audit would cost, or which operators of the model are in its way.

        Raises:
            AuditFailed: when it cannot be done for another reason, with everything that is in its way.
            GaveUp: when the plan is not there in time.

        """
        checked = request if isinstance(request, AuditRequest) else check_document(AuditRequest, dict(request))
        response = self._await_result("/v1/audits:plan", canonical_bytes(checked), timeout_s, on_wait)
        return FetchedPlan(_read(PlanAnswer, response).root, response.content)

    def inspect(
        self, request: InspectionRequest, timeout_s: float = 600, on_wait: Callable[[Job], None] | None = None
    ) -> FetchedInspection:
        """Return what is inside a model.

        Raises:
            AuditFailed: when it must not be loaded, or cannot be read.
            GaveUp: when the inspection is not there in time.

        """
        response = self._await_result("/v1/models:inspect", canonical_bytes(request), timeout_s, on_wait)
        return FetchedInspection(_read(Inspection, response), response.content)

    def create_key(self, new: NewKey) -> MadeKey:
        """Return a new key, which is told this once; needs an admin's key. Not repeated when the answer is lost."""
        return _read(MadeKey, self._transport.call("POST", KEYS, headers=JSON, body=canonical_bytes(new), once=True))

    def rotate_key(self, key_id: str, rotation: KeyRotation) -> MadeKey:
        """Return a successor of a key, which then ends after the overlap. Not repeated when the answer is lost."""
        path, body = f"{KEYS}/{quote(key_id, safe='')}/rotate", canonical_bytes(rotation)
        return _read(MadeKey, self._transport.call("POST", path, headers=JSON, body=body, once=True))

    def revoke_key(self, key_id: str) -> KeyInfo:
        """Return a key, which opens nothing from now on."""
        return self._ask(KeyInfo, "DELETE", f"{KEYS}/{quote(key_id, safe='')}")

    def list_keys(self, tenant: str | None = None) -> list[KeyInfo]:
        """Return all keys of a tenant, or all that the admin manages, newest first."""
        found: list[KeyInfo] = []
        query = {"limit": "100"} | ({"tenant": tenant} if tenant is not None else {})
        while True:
            page = self._ask(KeyPage, "GET", f"{KEYS}?{urlencode(query)}")
            found += page.items
            if page.next is None:
                return found
            query["cursor"] = page.next

    def _await_result(self, path: str, body: bytes, timeout_s: float, on_wait: Callable[[Job], None] | None) -> httpx2.Response:
        """Post a request whose result is the answer, and ask until it is there."""
        give_up, posted = time.monotonic() + timeout_s, {**JSON, "idempotency-key": uuid4().hex}
        response = self._transport.call("POST", path, headers=posted, body=body)
        while response.status_code == httpx2.codes.ACCEPTED:
            job, left_s = _read(Job, response), give_up - time.monotonic()
            if left_s <= 0:
                raise GaveUp(job, timeout_s)
            if on_wait is not None:
                on_wait(job)
            wait_s = max(1, min(POLL_S, round(left_s)))
            headers = {"prefer": f"wait={wait_s}"}
            response = self._transport.call("GET", job.links["self"], headers=headers, answer_s=wait_s + 30)
        if response.status_code == httpx2.codes.CONFLICT:
            raise AuditFailed(read_refusal(response).problem)
        if response.status_code >= 400:
            raise read_refusal(response)
        return response

    def _ask(
        self, kind: type[AnswerT], method: str, path: str, *, headers: Mapping[str, str] | None = None, body: Body = None
    ) -> AnswerT:
        return _read(kind, self._call(method, path, headers=headers, body=body))

    def _call(self, method: str, path: str, *, headers: Mapping[str, str] | None = None, body: Body = None) -> httpx2.Response:
        response = self._transport.call(method, path, headers=headers, body=body)
        if response.status_code >= 400:
            raise read_refusal(response)
        return response


def _audit(job_id: str) -> str:
    return f"/v1/audits/{quote(job_id, safe='')}"


def _read(kind: type[AnswerT], response: httpx2.Response) -> AnswerT:
    if response.status_code >= 400:
        raise read_refusal(response)
    try:
        return kind.model_validate_json(response.content)
    except ValidationError as error:
        expected, got = f"a {kind.__name__} of schema version 1", f"{response.status_code} {response.headers.get('content-type')}"
        advice = "Check that the address is that of a Faultline server of this version."
        raise BadAnswer(Fault(f"{response.request.url} did not answer as expected", "", expected, got, advice)) from error
