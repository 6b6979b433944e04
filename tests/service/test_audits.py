import base64
import json
from collections.abc import Callable
from typing import Any, cast

import httpx2
import pytest
import redis

from schemas.errors import Fault, ModelUnreadable
from schemas.problem import build_problem
from tests.service import documents
from tests.service.conftest import Worker, upload
from tests.service.eventually import eventually
from tests.service.problems import read_problem

Submit = Callable[..., dict[str, Any]]
PROBLEM = build_problem(ModelUnreadable(Fault("the file ends early", "model", "a whole file", "half of one", "Send it again.")))


def test_an_accepted_audit_is_there(http: httpx2.Client, submit: Submit) -> None:
    submit()
    response = http.post("/v1/audits", json=documents.build_request(labels={"branch": "main"}))
    job = response.json()
    assert response.status_code == 202
    assert response.headers["location"] == job["links"]["self"] == f"/v1/audits/{job['id']}"
    assert response.headers["retry-after"] == "1"
    assert (job["state"], job["attempt"], job["labels"]) == ("queued", 0, {"branch": "main"})
    assert job["timings"] == {"queued_s": None, "running_s": None}
    assert http.get(job["links"]["self"]).json() == job


def test_the_doorbell_rings_once_for_each_new_job(submit: Submit, store: redis.Redis) -> None:
    once, again, twice = (submit(headers={"Idempotency-Key": key})["id"] for key in ("once", "once", "twice"))
    assert once == again
    eventually(lambda: list_rung(store).count(once) == list_rung(store).count(twice) == 1)


def list_rung(store: redis.Redis) -> list[str]:
    """Return the job of each message in the broker; those of an earlier test may still be on their way."""
    messages = [json.loads(message) for message in cast("list[bytes]", store.lrange("faultline.cpu", 0, -1))]
    return [json.loads(base64.b64decode(message["body"]))[0][0] for message in messages]


def test_a_key_makes_one_job_of_equal_documents(http: httpx2.Client, submit: Submit) -> None:
    headers = {"Idempotency-Key": "k1"}
    first, second, other = submit(headers), submit(headers), submit({"Idempotency-Key": "k2"})
    assert first == second
    assert other["id"] != first["id"]
    spelt_differently = json.dumps({"search": {"seed": 0}, **documents.build_request()}, indent=3)
    json_headers = {**headers, "Content-Type": "application/json; charset=utf-8"}
    assert http.post("/v1/audits", content=spelt_differently, headers=json_headers).json()["id"] == first["id"]


def test_a_key_with_another_request_is_refused(http: httpx2.Client, submit: Submit) -> None:
    submit({"Idempotency-Key": "k1"})
    response = http.post("/v1/audits", json=documents.build_request(fresh=True), headers={"Idempotency-Key": "k1"})
    problem = read_problem(response, 422)
    assert problem.code == "idempotency_mismatch"
    assert problem.errors[0].where == "header: Idempotency-Key"


def test_every_artifact_that_is_missing_is_named(http: httpx2.Client) -> None:
    model, data, held_out, loss = ({"uri": f"artifact:sha256:{letter * 64}"} for letter in "abcd")
    objective = {"loss": "program", "program": loss}
    request = documents.build_request(model=model, data=data, evaluate_on=held_out, objective=objective)
    problem = read_problem(http.post("/v1/audits", json=request), 422)
    assert [(item.where, item.got) for item in problem.errors] == [
        ("/model/uri", f"artifact:sha256:{'a' * 64}"),
        ("/data/uri", f"artifact:sha256:{'b' * 64}"),
        ("/evaluate_on/uri", f"artifact:sha256:{'c' * 64}"),
        ("/objective/program/uri", f"artifact:sha256:{'d' * 64}"),
    ]


def test_a_job_tells_its_whole_life(http: httpx2.Client, submit: Submit, worker: Worker) -> None:
    path = submit()["links"]["self"]
    claim = worker.claim(path.rpartition("/")[2])
    worker.leases.beat(claim.id, claim.attempt, {"phase": "measure", "done": 3, "total": 8, "eta_s": 1.5})
    running = http.get(path).json()
    assert (running["state"], running["attempt"]) == ("running", 1)
    assert running["progress"] == {"phase": "measure", "done": 3, "total": 8, "eta_s": 1.5}
    assert running["timings"]["queued_s"] >= 0
    assert "cancel" in running["links"]
    digest = worker.artifacts.put_bytes(claim.owner, documents.REPORT)
    worker.leases.finish(claim.id, claim.attempt, "succeeded", report_sha256=digest)
    ended = http.get(path).json()
    assert ended["state"] == "succeeded"
    assert ended["report"] == {"sha256": documents.REPORT_SHA256, "url": f"{path}/report"}
    assert ended["timings"]["running_s"] >= 0
    assert ended["links"].keys() == {"self", "report"}
    assert ended["revision"] > running["revision"] > 0


def test_an_equal_request_is_answered_with_the_report_that_is_there(submit: Submit, worker: Worker) -> None:
    first = submit()
    worker.succeed(first["id"])
    again, fresh = submit(labels={"run": "2"}), submit(fresh=True)
    assert again["state"] == "succeeded"
    assert again["report"]["sha256"] == documents.REPORT_SHA256
    assert again["id"] != first["id"]
    assert fresh["state"] == "queued"


@pytest.mark.parametrize(("policy", "outcome"), [(documents.STRICT, "fail"), (documents.LENIENT, "pass"), (None, None)])
def test_a_reused_report_is_judged_by_the_policy_that_came_with_it(
    submit: Submit, worker: Worker, http: httpx2.Client, policy: dict[str, Any] | None, outcome: str | None
) -> None:
    worker.succeed(submit()["id"])
    job = submit(policy=policy)
    assert job["state"] == "succeeded"
    assert (job["verdict"] or {"outcome": None})["outcome"] == outcome
    assert http.get(job["links"]["self"]).json() == job


def test_a_queued_audit_is_cancelled_at_once(http: httpx2.Client, submit: Submit) -> None:
    path = submit()["links"]["self"]
    response = http.delete(path)
    assert response.status_code == 202
    assert response.json()["state"] == "cancelled"
    assert response.json()["problem"]["code"] == "cancelled"
    assert response.headers["location"] == path
    assert read_problem(http.delete(path), 409).code == "conflict"
    report = http.get(f"{path}/report")
    assert (report.status_code, report.json()["code"]) == (409, "cancelled")


def test_a_running_audit_is_asked_to_stop(http: httpx2.Client, submit: Submit, worker: Worker) -> None:
    path = submit()["links"]["self"]
    claim = worker.claim(path.rpartition("/")[2])
    job = http.delete(path).json()
    assert (job["state"], job["cancel_requested"]) == ("running", True)
    assert worker.leases.beat(claim.id, claim.attempt) == "cancel"


def test_a_failed_audit_tells_its_problem(http: httpx2.Client, submit: Submit, worker: Worker) -> None:
    job = submit()
    worker.fail(job["id"], PROBLEM.model_dump(mode="json"))
    assert http.get(job["links"]["self"]).json()["problem"]["code"] == "model_unreadable"
    problem = read_problem(http.get(f"{job['links']['self']}/report"), 409)
    assert (problem.code, problem.errors) == ("model_unreadable", PROBLEM.errors)


@pytest.mark.parametrize("path", ["", "/report", "/verdict"])
def test_an_unknown_audit_is_not_found(http: httpx2.Client, path: str) -> None:
    for name in ("nothing", "0" * 29, "x" * 2000, "%00%ff", "*", "é"):
        assert read_problem(http.get(f"/v1/audits/{name}{path}"), 404).errors[0].where == "path: audit_id"
    read_problem(http.delete("/v1/audits/nothing"), 404)


def test_pages_lead_through_all_audits(http: httpx2.Client, submit: Submit) -> None:
    ids = [submit(search={"seed": seed})["id"] for seed in range(7)]
    seen: list[str] = []
    path: str | None = "/v1/audits?limit=3"
    sizes = []
    while path is not None:
        response = http.get(path)
        items = response.json()["items"]
        sizes.append(len(items))
        seen += [job["id"] for job in items]
        assert ("link" in response.headers) == (response.json()["next"] is not None)
        path = response.links["next"]["url"] if "link" in response.headers else None
    assert seen == ids[::-1]
    assert sizes == [3, 3, 1]


def test_a_page_of_one_state_keeps_to_it_and_so_does_the_next(http: httpx2.Client, submit: Submit, worker: Worker) -> None:
    ids = [submit(search={"seed": seed})["id"] for seed in range(4)]
    for audit_id in ids[:3]:
        worker.succeed(audit_id)
    first = http.get("/v1/audits?state=succeeded&limit=2")
    second = http.get(first.links["next"]["url"])
    found = [job["id"] for response in (first, second) for job in response.json()["items"]]
    assert found == [ids[2], ids[1], ids[0]]
    assert http.get("/v1/audits?state=failed").json() == {"items": [], "next": None}


def test_uploads_are_needed_once(http: httpx2.Client, submit: Submit) -> None:
    submit()
    assert upload(http, documents.MODEL).status_code == 200
