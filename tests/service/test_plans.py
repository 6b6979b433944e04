"""Plans and inspections over HTTP: a job of their own kind, whose result is the answer."""

import threading
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from schemas.base import canonical_bytes, compute_sha256
from schemas.errors import Fault, UnsupportedOperator
from schemas.problem import build_problem
from service.openapi import previews
from tests.service import documents
from tests.service.conftest import Worker, upload

POSTS = {"plan": ("/v1/audits:plan", "/v1/plans"), "inspection": ("/v1/models:inspect", "/v1/inspections")}
RESULTS: dict[str, bytes] = {"plan": canonical_bytes(previews.PLAN), "inspection": canonical_bytes(previews.INSPECTION)}

Post = Callable[..., httpx2.Response]


@pytest.fixture(params=POSTS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def post(http: httpx2.Client, kind: str) -> Post:
    """Post a plan or an inspection of files that are there."""

    def call(headers: dict[str, str] | None = None, **fields: Any) -> httpx2.Response:
        for content in (documents.MODEL, documents.DATA):
            upload(http, content)
        body = documents.build_request()
        body = body if kind == "plan" else {name: body[name] for name in ("model", "data")}
        return http.post(POSTS[kind][0], json=body | fields, headers=headers or {})

    return call


def finish(worker: Worker, job_id: str, kind: str) -> None:
    claim = worker.claim(job_id)
    assert claim.kind == kind
    digest = worker.artifacts.put_bytes(claim.owner, RESULTS[kind])
    assert worker.leases.finish(job_id, claim.attempt, "succeeded", report_sha256=digest)


def test_the_job_leads_to_the_result(http: httpx2.Client, worker: Worker, post: Post, kind: str) -> None:
    accepted = post()
    job = accepted.json()
    assert (accepted.status_code, job["kind"], job["state"], job["report"]) == (202, kind, "queued", None)
    where = accepted.headers["location"]
    assert where == job["links"]["self"] == f"{POSTS[kind][1]}/{job['id']}"
    waiting = http.get(where)
    assert (waiting.status_code, waiting.json()["id"], waiting.headers["retry-after"]) == (202, job["id"], "1")
    finish(worker, job["id"], kind)
    found = http.get(where)
    assert (found.status_code, found.content) == (200, RESULTS[kind])
    assert found.headers["etag"] == f'"{compute_sha256(RESULTS[kind])}"'
    assert found.headers["content-location"] == where
    assert http.get(where, headers={"if-none-match": found.headers["etag"]}).status_code == 304


def test_a_patient_caller_gets_the_result_at_once(worker: Worker, store: Any, post: Post, kind: str) -> None:
    def work() -> None:
        while not (found := [key for key in store.scan_iter("faultline:job:*")]):  # noqa: C416 - the iterator is read once
            pass
        finish(worker, found[0].decode().rpartition(":")[2], kind)

    thread = threading.Thread(target=work)
    thread.start()
    answer = post({"prefer": "wait=15"})
    thread.join()
    assert (answer.status_code, answer.content) == (200, RESULTS[kind])


def test_equal_requests_share_a_result_with_their_own_kind_only(
    http: httpx2.Client, worker: Worker, post: Post, kind: str, submit: Callable[..., dict[str, Any]]
) -> None:
    first = post().json()
    finish(worker, first["id"], kind)
    again, fresh = post(), post(fresh=True)
    assert (again.status_code, again.content) == (200, RESULTS[kind])
    assert fresh.status_code == 202
    audit = submit()
    assert audit["state"] == "queued", "the audit of an equal request still has to be run"
    assert audit["request_digest"] != first["request_digest"]


def test_a_refusal_is_told_whole(http: httpx2.Client, worker: Worker, post: Post, kind: str) -> None:
    job = post().json()
    faults = [Fault(f"operator {name} is not supported", "nodes a", "a known one", name, "export again") for name in "AB"]
    problem = build_problem(UnsupportedOperator(*faults)).model_dump(mode="json")
    worker.fail(job["id"], problem)
    answer = http.get(job["links"]["self"])
    assert (answer.status_code, answer.json()["code"]) == (409, "unsupported_operator")
    assert [fault["got"] for fault in answer.json()["errors"]] == ["A", "B"]


def test_kinds_do_not_answer_for_each_other(
    http: httpx2.Client, worker: Worker, post: Post, kind: str, submit: Callable[..., dict[str, Any]]
) -> None:
    job, audit = post().json(), submit()
    assert [item["id"] for item in http.get("/v1/audits").json()["items"]] == [audit["id"]]
    assert [item["id"] for item in http.get("/v1/audits?state=queued").json()["items"]] == [audit["id"]]
    for method, path in (("GET", "/v1/audits/{}"), ("DELETE", "/v1/audits/{}"), ("GET", "/v1/audits/{}/report")):
        assert http.request(method, path.format(job["id"])).status_code == 404
    assert http.get(f"{POSTS[kind][1]}/{audit['id']}").status_code == 404
    verdict = {"policy": documents.STRICT, "audit_id": job["id"]}
    assert http.post("/v1/verdicts", json=verdict).status_code == 422
    finish(worker, job["id"], kind)
    assert [item["id"] for item in http.get("/v1/audits?state=succeeded").json()["items"]] == []


def test_a_key_is_for_one_kind(http: httpx2.Client, post: Post, submit: Callable[..., dict[str, Any]]) -> None:
    submit({"idempotency-key": "k"})
    assert post({"idempotency-key": "k"}).json()["code"] == "idempotency_mismatch"


def test_what_a_request_names_must_be_there(http: httpx2.Client, kind: str) -> None:
    body: dict[str, Any] = {part: {"uri": f"artifact:sha256:{digit * 64}"} for part, digit in (("model", "a"), ("data", "b"))}
    refused = http.post(POSTS[kind][0], json=body)
    assert refused.status_code == 422
    assert [fault["where"] for fault in refused.json()["errors"]] == ["/model/uri", "/data/uri"]
    assert http.post(POSTS[kind][0], json={"modle": 1}).status_code == 422
