"""Deletion over HTTP, and the worker's janitor on the data of a running API."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis

from schemas.base import compute_sha256
from storage.artifacts import FileArtifactStore
from storage.collection import Collector, Lifetimes
from storage.resumable import ResumableUploads
from tests.service import documents
from tests.service.conftest import Worker, upload
from tests.service.eventually import eventually
from tests.service.problems import read_problem
from worker.janitor import Janitor

DAY_S = 86400.0
LIFETIMES = Lifetimes(90 * DAY_S, 7 * DAY_S, DAY_S)
Submit = Callable[..., dict[str, Any]]


def build_janitor(store: redis.Redis, data_dir: Path, period_s: float = 600) -> Janitor:
    root = data_dir / "artifacts"
    artifacts = FileArtifactStore(root)
    collector = Collector(store, artifacts, ResumableUploads(root, artifacts))
    return Janitor(store, collector, LIFETIMES, "test", period_s)


def find(data_dir: Path, sha256: str) -> list[Path]:
    return list((data_dir / "artifacts").rglob(sha256))


def test_an_ended_audit_is_deleted_with_its_report(http: httpx2.Client, submit: Submit, worker: Worker, data_dir: Path) -> None:
    job = submit(labels={"test": "deletion"})
    worker.succeed(job["id"])
    (report,) = find(data_dir, documents.REPORT_SHA256)
    os.utime(report, (time.time() - 60,) * 2)
    assert http.delete(f"/v1/audits/{job['id']}/report").status_code == 204
    assert find(data_dir, documents.REPORT_SHA256) == []
    for path in (f"/v1/audits/{job['id']}", f"/v1/audits/{job['id']}/report"):
        read_problem(http.get(path), 404)
    read_problem(http.delete(f"/v1/audits/{job['id']}/report"), 404)
    assert http.get("/v1/audits").json()["items"] == []
    again = submit()
    assert again["state"] == "queued"
    worker.succeed(again["id"])
    assert http.get(f"/v1/audits/{again['id']}/report").content == documents.REPORT


def test_an_audit_that_has_not_ended_is_not_deleted(http: httpx2.Client, submit: Submit, worker: Worker) -> None:
    job = submit()
    for _ in range(2):
        read_problem(http.delete(f"/v1/audits/{job['id']}/report"), 409)
        worker.leases.claim(job["id"], "test")
    assert http.get(f"/v1/audits/{job['id']}").json()["state"] == "running"


def test_an_artifact_is_deleted_unless_an_audit_needs_it(
    http: httpx2.Client, submit: Submit, worker: Worker, data_dir: Path
) -> None:
    free = os.urandom(100)
    assert upload(http, free).status_code == 201
    path = f"/v1/artifacts/{compute_sha256(free)}"
    assert http.delete(path).status_code == 204
    assert find(data_dir, compute_sha256(free)) == []
    read_problem(http.delete(path), 404)
    job = submit()
    model = f"/v1/artifacts/{documents.MODEL_SHA256}"
    assert "not ended" in read_problem(http.delete(model), 409).detail
    worker.succeed(job["id"])
    assert "report" in read_problem(http.delete(f"/v1/artifacts/{documents.REPORT_SHA256}"), 409).detail
    assert http.delete(model).status_code == 204
    assert "was not uploaded" in read_problem(http.post("/v1/audits", json=documents.build_request(fresh=True)), 422).detail


def test_who_waits_for_an_audit_that_is_deleted_is_told(http: httpx2.Client, submit: Submit, worker: Worker) -> None:
    job = submit()
    assert http.delete(f"/v1/audits/{job['id']}").status_code == 202
    assert http.delete(f"/v1/audits/{job['id']}/report").status_code == 204
    read_problem(http.get(f"/v1/audits/{job['id']}", headers={"Prefer": "wait=5"}), 404)


def test_the_janitor_takes_turns_and_leaves_what_is_needed(
    http: httpx2.Client, submit: Submit, worker: Worker, store: redis.Redis, data_dir: Path
) -> None:
    unused = os.urandom(100)
    upload(http, unused)
    job = submit()
    for path in (data_dir / "artifacts").rglob("*"):
        if path.is_file():
            os.utime(path, (time.time() - 8 * DAY_S,) * 2)
    first, second = build_janitor(store, data_dir), build_janitor(store, data_dir)
    assert [first.clean_once(), second.clean_once()] == [True, False]
    assert find(data_dir, compute_sha256(unused)) == []
    worker.succeed(job["id"])
    assert http.get(f"/v1/audits/{job['id']}/report").content == documents.REPORT


def test_the_janitor_works_by_itself(http: httpx2.Client, store: redis.Redis, data_dir: Path) -> None:
    unused = os.urandom(100)
    upload(http, unused)
    (path,) = find(data_dir, compute_sha256(unused))
    os.utime(path, (time.time() - 8 * DAY_S,) * 2)
    janitor = build_janitor(store, data_dir, period_s=0.1)
    janitor.start()
    eventually(lambda: not path.exists())
    janitor.close()


def test_asking_for_a_file_keeps_it(http: httpx2.Client, store: redis.Redis, data_dir: Path) -> None:
    unused = os.urandom(100)
    upload(http, unused)
    (path,) = find(data_dir, compute_sha256(unused))
    for method in ("HEAD", "GET"):
        os.utime(path, (time.time() - 8 * DAY_S,) * 2)
        assert http.request(method, f"/v1/artifacts/{compute_sha256(unused)}").status_code == 200
        store.delete("faultline:janitor")
        assert build_janitor(store, data_dir).clean_once()
        assert path.exists()


@pytest.mark.parametrize(("posted", "path"), [("/v1/audits:plan", "/v1/plans"), ("/v1/models:inspect", "/v1/inspections")])
def test_plans_and_inspections_are_deleted_when_they_have_ended(
    http: httpx2.Client, submit: Submit, worker: Worker, posted: str, path: str
) -> None:
    submit()
    request = documents.build_request() if "plan" in posted else {"model": documents.build_request()["model"]}
    id = http.post(posted, json=request).json()["id"]
    read_problem(http.delete(f"{path}/{id}"), 409)
    read_problem(http.delete(f"/v1/audits/{id}/report"), 404)
    worker.succeed(id)
    assert http.delete(f"{path}/{id}").status_code == 204
    read_problem(http.get(f"{path}/{id}"), 404)
