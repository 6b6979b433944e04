"""What the API answers while broker or disk are gone, and that it recovers by itself."""

from pathlib import Path

import httpx2

from service.settings import Settings
from tests.service import documents
from tests.service.conftest import upload
from tests.service.eventually import eventually
from tests.service.problems import read_problem
from tests.service.running import running_app
from tests.storage.valkey import running_valkey


def test_without_the_broker_every_call_is_503_and_the_next_one_after_it_is_back_works(tmp_path: Path) -> None:
    with running_valkey(tmp_path) as server:
        settings = Settings(redis_url=server.redis_url, data_dir=tmp_path / "data")
        with running_app(settings) as url, httpx2.Client(base_url=url, timeout=60) as http:
            for content in (documents.MODEL, documents.DATA):
                upload(http, content)
            job = http.post("/v1/audits", json=documents.build_request()).json()
            server.kill()
            for method, path, document in (
                ("GET", job["links"]["self"], None),
                ("GET", "/v1/audits", None),
                ("DELETE", job["links"]["self"], None),
                ("POST", "/v1/audits", documents.build_request(fresh=True)),
                ("GET", "/readyz", None),
            ):
                response = http.request(method, path, json=document)
                assert read_problem(response, 503).code == "unavailable"
                assert int(response.headers["retry-after"]) > 0
            assert http.get("/healthz").status_code == 200
            server.start()
            eventually(lambda: http.get(job["links"]["self"]).status_code == 200)
            assert http.get(job["links"]["self"]).json() == job


def test_a_store_that_cannot_be_written_is_told_by_readiness_and_uploads(tmp_path: Path, redis_url: str) -> None:
    settings = Settings(redis_url=redis_url, data_dir=tmp_path / "data")
    with running_app(settings) as url, httpx2.Client(base_url=url, timeout=60) as http:
        incoming = tmp_path / "data" / "artifacts" / ".incoming"
        incoming.rename(tmp_path / "gone")
        assert read_problem(upload(http, b"x"), 503).code == "unavailable"
        assert any("artifact store" in item.what for item in read_problem(http.get("/readyz"), 503).errors)
        (tmp_path / "gone").rename(incoming)
        assert upload(http, b"x").status_code == 201
