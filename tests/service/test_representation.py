"""Entity tags, 304 and compression of documents, and that files and reports are left as they are."""

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from schemas.base import compute_sha256
from service.settings import Settings
from tests.service import documents
from tests.service.conftest import Worker
from tests.service.running import running_app

Submit = Callable[..., dict[str, Any]]
LONG = ("/openapi.json", "/docs/docs.css", "/docs/docs.js")


def ask(http: httpx2.Client, path: str, **headers: str) -> tuple[httpx2.Response, bytes]:
    """Return the answer and its bytes as they travelled."""
    with http.stream("GET", path, headers={"Accept-Encoding": "identity", **headers}) as response:
        return response, b"".join(response.iter_raw())


@pytest.mark.parametrize("path", LONG)
def test_a_long_document_is_compressed_for_who_takes_it(http: httpx2.Client, path: str) -> None:
    plain, content = ask(http, path)
    short, compressed = ask(http, path, **{"Accept-Encoding": "br;q=1.0, gzip;q=0.8"})
    assert "content-encoding" not in plain.headers
    assert short.headers["content-encoding"] == "gzip"
    assert gzip.decompress(compressed) == content
    assert len(compressed) == int(short.headers["content-length"]) < len(content) / 2
    assert all("accept-encoding" in response.headers["vary"].lower() for response in (plain, short))
    assert short.headers["etag"] == f"W/{plain.headers['etag']}"  # other bytes, the same document
    refused, _ = ask(http, path, **{"Accept-Encoding": "gzip;q=0, identity"})
    assert "content-encoding" not in refused.headers


@pytest.mark.parametrize("path", [*LONG, "/docs", "/v1", "/v1/audits"])
def test_who_holds_a_document_is_not_sent_it_again(http: httpx2.Client, path: str) -> None:
    for encoding in ("identity", "gzip"):
        first, _ = ask(http, path, **{"Accept-Encoding": encoding})
        again, content = ask(http, path, **{"Accept-Encoding": encoding, "If-None-Match": first.headers["etag"]})
        assert (again.status_code, content) == (304, b"")
        assert again.headers["etag"].removeprefix("W/") == first.headers["etag"].removeprefix("W/")
    assert ask(http, path, **{"If-None-Match": '"other"'})[0].status_code == 200


def test_a_list_has_another_tag_when_something_in_it_has_changed(http: httpx2.Client, submit: Submit, worker: Worker) -> None:
    job = submit()
    before, _ = ask(http, "/v1/audits")
    worker.claim(job["id"])
    after, _ = ask(http, "/v1/audits", **{"If-None-Match": before.headers["etag"]})
    assert after.status_code == 200
    assert after.headers["etag"] != before.headers["etag"]


def test_a_report_travels_as_the_bytes_that_its_digest_is_of(http: httpx2.Client, submit: Submit, worker: Worker) -> None:
    job = submit()
    worker.succeed(job["id"])
    response, content = ask(http, f"{job['links']['self']}/report", **{"Accept-Encoding": "gzip"})
    assert "content-encoding" not in response.headers
    assert content == documents.REPORT
    assert response.headers["etag"] == f'"{compute_sha256(content)}"'


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_what_is_asked_for_its_moment_has_no_tag(http: httpx2.Client, worker: Worker, path: str) -> None:
    worker.leases.announce("w", 30)
    response, _ = ask(http, path, **{"If-None-Match": "*"})
    assert response.status_code == 200
    assert "etag" not in response.headers


@pytest.fixture
def shared(redis_url: str, tmp_path: Path) -> Iterator[httpx2.Client]:
    settings = Settings(redis_url=redis_url, data_dir=tmp_path, auth="off", cors_origins=("https://ci.example",))
    with running_app(settings) as url, httpx2.Client(base_url=url) as http:
        yield http


def test_pages_of_other_sites_may_call_only_where_the_operator_says_so(shared: httpx2.Client, http: httpx2.Client) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization, idempotency-key"}
    allowed = shared.options("/v1/audits", headers={"Origin": "https://ci.example", **asked})
    assert allowed.headers["access-control-allow-origin"] == "https://ci.example"
    assert "idempotency-key" in allowed.headers["access-control-allow-headers"].lower()
    for site in ("https://evil.example", "https://ci.example.evil.example", "http://ci.example", "null"):
        refused = shared.options("/v1/audits", headers={"Origin": site, **asked})
        assert "access-control-allow-origin" not in refused.headers
    for client in (shared, http):
        assert "access-control-allow-origin" not in client.get("/healthz").headers
    assert "access-control-allow-origin" not in http.options("/v1", headers={"Origin": "https://ci.example", **asked}).headers


@pytest.mark.parametrize("origin", ["*", "https://*.example", "ci.example", "https://ci.example/path"])
def test_an_origin_that_is_none_is_no_setting(origin: str) -> None:
    with pytest.raises(ValueError, match="cors_origins"):
        Settings(redis_url="redis://127.0.0.1", cors_origins=(origin,))


def test_the_page_of_the_description_loads_nothing_from_elsewhere(http: httpx2.Client) -> None:
    page = http.get("/docs")
    policy = page.headers["content-security-policy"]
    assert page.headers.get_list("content-security-policy") == [policy]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for path in ("/docs", *LONG[1:]):
        response = http.get(path)
        assert response.headers["x-content-type-options"] == "nosniff"
        assert "http://" not in response.text
        assert "https://" not in response.text
        assert "innerHTML" not in response.text
    for path in ("/docs/docs.css", "/docs/docs.js", "/openapi.json"):
        assert f'"{path}"' in page.text
        assert http.get(path).status_code == 200
