"""/metrics of real API processes, read with Prometheus's own parser."""

from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest
import redis

from schemas.base import compute_sha256
from service.app import find_routes
from storage.artifacts import FileArtifactStore
from storage.leases import Leases
from tests.service import documents
from tests.service.conftest import Worker, upload
from tests.service.running import running_process
from tests.storage.valkey import running_valkey
from tests.telemetry.scraping import Scrape
from tests.worker.process.processes import eventually

LABELS = {"method", "route", "status", "waited", "le", "code", "kind", "reused", "state", "device", "layer", "version", "engine"}
PLATFORM = {"implementation", "major", "minor", "patchlevel"}


def test_requests_are_counted_by_the_template_of_their_path_and_never_by_what_stands_in_it(
    redis_url: str, store: redis.Redis, tmp_path: Path
) -> None:
    with running_process(redis_url, tmp_path) as (_, url), httpx2.Client(base_url=url) as http:
        for content in (documents.MODEL, documents.DATA):
            upload(http, content)
        job = http.post("/v1/audits", json=documents.build_request()).json()
        for _ in range(3):
            http.get(job["links"]["self"])
        http.head(job["links"]["self"])
        http.get(job["links"]["self"], headers={"Prefer": "wait=1"})
        http.get("/v1/audits/no-such-audit")
        http.get("/secret-place/7")
        http.request("PROPFIND", "/v1")
        scrape = Scrape(url)
    template = "/v1/audits/{audit_id}"
    assert scrape.read("faultline_http_requests_total", method="GET", route=template, status="200") == 4
    assert scrape.read("faultline_http_requests_total", method="HEAD", route=template, status="200") == 1
    assert scrape.read("faultline_http_requests_total", method="GET", route=template, status="404") == 1
    assert scrape.read("faultline_http_requests_total", method="GET", route="none", status="404") == 1
    assert scrape.read("faultline_http_requests_total", method="other", status="405") == 1
    assert scrape.read("faultline_http_request_seconds_count", route=template, waited="yes") == 1
    assert scrape.read("faultline_http_request_seconds_sum", route=template, waited="no") < 1.0
    assert scrape.read("faultline_http_requests_running") == 1
    assert scrape.read("faultline_refusals_total", code="not_found") == 2
    assert scrape.read("faultline_jobs_accepted_total", kind="audit", reused="no") == 1
    assert scrape.list_labels() <= LABELS | PLATFORM
    assert scrape.list_values("route") <= {route.path for route in find_routes()} | {"none"}
    for chosen in (job["id"], "no-such-audit", "secret-place", documents.MODEL_SHA256, "PROPFIND", "local"):
        assert chosen not in scrape.text


def test_the_store_is_counted_when_it_is_asked_and_its_absence_is_a_figure(tmp_path: Path) -> None:
    with running_valkey(tmp_path) as server, server.connect() as client:
        worker = Worker(Leases(client), FileArtifactStore(tmp_path / "data/artifacts"))
        with running_process(server.redis_url, tmp_path / "data") as (_, url), httpx2.Client(base_url=url) as http:
            for content in (documents.MODEL, documents.DATA):
                upload(http, content)
            jobs = [http.post("/v1/audits", json=documents.build_request(fresh=True)).json()["id"] for _ in range(3)]
            worker.succeed(jobs[0])
            worker.leases.announce("w", 30, {"seccomp": True, "namespaces": False})
            expired = Leases(client, lease_s=0.001).claim(jobs[1], "w")
            assert expired is not None
            eventually(lambda: Scrape(url).read("faultline_doorbells", device="cpu") == 3)
            full = Scrape(url)
            server.stop()
            empty = Scrape(url)
    assert {state: full.read("faultline_jobs", state=state) for state in ("queued", "running", "succeeded")} == {
        "queued": 1,
        "running": 1,
        "succeeded": 1,
    }
    assert full.read("faultline_jobs_waiting", device="cpu") == 1
    for name in ("faultline_jobs_pending", "faultline_leases", "faultline_leases_expired"):
        assert full.read(name) == 1
    assert 0 < full.read("faultline_jobs_pending_oldest_seconds") < 60
    assert full.read("faultline_workers") == 1
    assert (full.read("faultline_sandbox_layer", layer="seccomp"), full.read("faultline_sandbox_layer", layer="namespaces")) == (
        1,
        0,
    )
    assert (full.read("faultline_store_up"), empty.read("faultline_store_up")) == (1, 0)
    assert not empty.has("faultline_jobs")
    assert empty.has("faultline_http_requests_total")


def test_any_of_several_processes_that_share_a_folder_answers_for_all(redis_url: str, tmp_path: Path) -> None:
    shared = tmp_path / "metrics"
    shared.mkdir()
    with ExitStack() as stack:
        urls = [
            stack.enter_context(running_process(redis_url, tmp_path / "data", PROMETHEUS_MULTIPROC_DIR=str(shared)))[1]
            for _ in range(2)
        ]
        for url, times in zip(urls, (2, 5), strict=True):
            for _ in range(times):
                assert httpx2.get(f"{url}/healthz").status_code == 200
        told = [Scrape(url).read("faultline_http_requests_total", route="/healthz", status="200") for url in urls]
    assert told == [7, 7]


@pytest.mark.parametrize("value", ["x", "../../etc", "a" * 65, "two words", "line\tbreak", "fl_ab_cd?"])
def test_a_request_id_that_could_do_harm_is_replaced(http: httpx2.Client, value: str) -> None:
    answered = http.get("/healthz", headers={"X-Request-Id": value}).headers["x-request-id"]
    assert answered != value
    assert len(answered) == 32


def test_a_good_request_id_comes_back(http: httpx2.Client) -> None:
    given = compute_sha256(b"x")[:40]
    assert http.get("/nothing", headers={"X-Request-Id": given}).headers["x-request-id"] == given
