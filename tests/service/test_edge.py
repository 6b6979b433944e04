"""What holds for every route: HEAD, OPTIONS, 405, headers, and an answer when the code itself fails."""

import json
import logging
import time
from pathlib import Path

import httpx2
import pytest
import redis
from fastapi import FastAPI
from fastapi.testclient import TestClient

from service.app import find_routes
from service.edge import Edge, MethodTable
from service.problems import add_problem_handlers
from service.settings import Settings
from storage.artifacts import FileArtifactStore
from storage.leases import Leases
from tests.service import documents
from tests.service.conftest import Worker, upload
from tests.service.problems import read_problem
from tests.service.running import running_app

METHODS = {
    "/v1": "GET, HEAD, OPTIONS",
    "/healthz": "GET, HEAD, OPTIONS",
    "/readyz": "GET, HEAD, OPTIONS",
    "/openapi.json": "GET, HEAD, OPTIONS",
    "/metrics": "GET, HEAD, OPTIONS",
    "/docs": "GET, HEAD, OPTIONS",
    "/docs/docs.css": "GET, HEAD, OPTIONS",
    "/docs/docs.js": "GET, HEAD, OPTIONS",
    "/v1/artifacts/" + "0" * 64: "DELETE, GET, HEAD, OPTIONS, PUT",
    "/v1/uploads": "OPTIONS, POST",
    "/v1/uploads/x": "DELETE, GET, HEAD, OPTIONS, PATCH",
    "/v1/audits": "GET, HEAD, OPTIONS, POST",
    "/v1/audits/x": "DELETE, GET, HEAD, OPTIONS",
    "/v1/audits/x/report": "DELETE, GET, HEAD, OPTIONS",
    "/v1/audits/x/events": "GET, HEAD, OPTIONS",
    "/v1/audits/x/verdict": "GET, HEAD, OPTIONS",
    "/v1/audits/x/deliveries": "GET, HEAD, OPTIONS",
    "/v1/webhook-secret": "GET, HEAD, OPTIONS",
    "/v1/audits:plan": "OPTIONS, POST",
    "/v1/plans/x": "DELETE, GET, HEAD, OPTIONS",
    "/v1/models:inspect": "OPTIONS, POST",
    "/v1/inspections/x": "DELETE, GET, HEAD, OPTIONS",
    "/v1/verdicts": "OPTIONS, POST",
    "/v1/keys": "GET, HEAD, OPTIONS, POST",
    "/v1/keys/x": "DELETE, GET, HEAD, OPTIONS",
    "/v1/keys/x/rotate": "OPTIONS, POST",
    "/v1/audit-log": "GET, HEAD, OPTIONS",
}


def test_every_route_has_its_row() -> None:
    table = MethodTable(find_routes())
    rows = {path: ", ".join(table.find(path)) for path in METHODS}
    assert rows == METHODS
    assert len(METHODS) == len({route.path for route in find_routes()})


@pytest.mark.parametrize(("path", "allowed"), METHODS.items())
def test_other_methods_are_refused_with_all_that_are_allowed(http: httpx2.Client, path: str, allowed: str) -> None:
    for method in {"GET", "POST", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND"} - set(allowed.split(", ")):
        response = http.request(method, path)
        assert read_problem(response, 405).errors[0].got == method
        assert response.headers["allow"] == allowed
    options = http.options(path)
    assert (options.status_code, options.headers["allow"], options.content) == (204, allowed, b"")


def test_options_of_nothing_is_not_found(http: httpx2.Client) -> None:
    read_problem(http.options("/v2"), 404)


@pytest.mark.parametrize("path", [path for path, allowed in METHODS.items() if "HEAD" in allowed])
def test_head_is_get_without_the_body(http: httpx2.Client, path: str) -> None:
    told, got = http.head(path), http.get(path)
    assert told.status_code == got.status_code
    assert told.content == b""
    same = ("content-type", "etag", "cache-control", "content-length")
    for name in same[:-1] if path == "/metrics" else same:  # the first of the two calls is counted in the second's answer
        assert told.headers.get(name) == got.headers.get(name)


@pytest.mark.parametrize("path", ["/v1", "/nothing", "/v1/audits", "/v1/verdicts"])
def test_answers_are_nothing_that_a_browser_would_run(http: httpx2.Client, path: str) -> None:
    headers = http.get(path, headers={"Origin": "http://evil.example"}).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert headers["referrer-policy"] == "no-referrer"
    assert "access-control-allow-origin" not in headers
    assert "server" not in headers


def test_the_service_tells_its_limits_and_links(http: httpx2.Client) -> None:
    about = http.get("/v1").json()
    assert about["limits"]["wait_s"] == 20
    for name in ("audits", "openapi", "health"):
        assert http.get(about["links"][name]).status_code == 200


def test_the_openapi_document_is_served(http: httpx2.Client) -> None:
    assert json.loads(http.get("/openapi.json").content)["info"]["title"] == "Faultline"


def test_readiness_needs_a_worker(http: httpx2.Client, worker: Worker) -> None:
    assert [item.where for item in read_problem(http.get("/readyz"), 503).errors] == ["workers"]
    worker.leases.announce("w1", 30)
    ready = http.get("/readyz")
    assert ready.status_code == 200
    assert ready.json()["workers"] == 1
    assert http.get("/healthz").json() == {"status": "alive"}


def test_readiness_knows_whether_workers_really_take_audits(redis_url: str, store: redis.Redis, tmp_path: Path) -> None:
    settings = Settings(redis_url=redis_url, data_dir=tmp_path, stuck_after_s=1.0)
    worker = Worker(Leases(store), FileArtifactStore(tmp_path / "artifacts"))
    worker.leases.announce("w1", 30, {"seccomp": True})
    with running_app(settings) as url, httpx2.Client(base_url=url) as http:
        for content in (documents.MODEL, documents.DATA):
            upload(http, content)
        jobs = [http.post("/v1/audits", json=documents.build_request(fresh=True)).json()["id"] for _ in range(2)]
        ready = http.get("/readyz").json()
        assert (ready["workers"], ready["audits"]["queued"], ready["sandbox"]) == (1, 2, {"seccomp": True})
        assert 0 <= ready["announced_s"][0] < 30
        time.sleep(1.1)
        (stuck,) = read_problem(http.get("/readyz"), 503).errors
        assert (stuck.where, stuck.what) == ("workers", "workers are there and take no audits")
        worker.claim(jobs[0])
        assert http.get("/readyz").json()["oldest_queued_s"] > 1


def test_jobs_that_no_worker_here_could_take_are_no_fault_of_the_workers(
    redis_url: str, store: redis.Redis, tmp_path: Path
) -> None:
    Leases(store).announce("w1", 30)
    settings = Settings(redis_url=redis_url, data_dir=tmp_path, stuck_after_s=1.0, device="cpu", devices=("cpu", "cuda"))
    with running_app(settings) as url, httpx2.Client(base_url=url) as http:
        for content in (documents.MODEL, documents.DATA):
            upload(http, content)
        assert http.post("/v1/audits", json=documents.build_request(device="cuda")).status_code == 202
        time.sleep(1.1)
        assert http.get("/readyz").status_code == 200


def test_readiness_knows_when_the_disk_is_nearly_full(redis_url: str, store: redis.Redis, tmp_path: Path) -> None:
    Leases(store).announce("w1", 30)
    with running_app(Settings(redis_url=redis_url, data_dir=tmp_path, min_free_bytes=2**60)) as url:
        assert [item.where for item in read_problem(httpx2.get(f"{url}/readyz"), 503).errors] == ["disk"]


def test_the_service_tells_what_it_was_built_from(redis_url: str, tmp_path: Path) -> None:
    with running_app(Settings(redis_url=redis_url, data_dir=tmp_path, commit="6f1ed0029c1b")) as url:
        assert httpx2.get(f"{url}/v1").json()["commit"] == "6f1ed0029c1b"


def test_a_failure_of_ours_is_a_problem_with_an_incident_that_the_log_explains(caplog: pytest.LogCaptureFixture) -> None:
    app = FastAPI()

    @app.get("/broken")
    async def break_down() -> None:
        secret = "password"
        raise LookupError(secret)

    app.add_middleware(Edge, methods=MethodTable([]))
    add_problem_handlers(app)
    with TestClient(app) as client, caplog.at_level(logging.ERROR):
        response = client.get("/broken")
    problem = read_problem(response, 500)
    assert "password" not in response.text
    incident = problem.errors[0].what.rpartition(" ")[2]
    assert len(incident) == 32
    assert incident in caplog.text
    assert "LookupError: password" in caplog.text
