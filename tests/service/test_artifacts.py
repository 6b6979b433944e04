import base64
import http.client
import logging
import os
import socket
import threading
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from schemas.base import compute_sha256
from tests.service.conftest import UPLOAD_LIMIT, upload
from tests.service.eventually import eventually
from tests.service.problems import read_problem


def list_unfinished(data_dir: Path) -> list[str]:
    return [path.name for path in (data_dir / "artifacts" / ".incoming").iterdir()]


def test_a_file_comes_back_as_it_was_sent(http: httpx2.Client) -> None:
    content = os.urandom(2_500_000)
    digest = compute_sha256(content)
    first, second = upload(http, content), upload(http, content)
    assert (first.status_code, second.status_code) == (201, 200)
    assert (
        first.json()
        == second.json()
        == {
            "sha256": digest,
            "size_bytes": len(content),
            "uri": f"artifact:sha256:{digest}",
            "url": f"/v1/artifacts/{digest}",
        }
    )
    got = http.get(first.json()["url"])
    assert got.content == content
    assert got.headers["etag"] == f'"{digest}"'
    assert base64.b64decode(got.headers["repr-digest"].removeprefix("sha-256=:").removesuffix(":")).hex() == digest
    assert got.headers["content-type"] == "application/octet-stream"


def test_an_empty_file_is_a_file(http: httpx2.Client) -> None:
    assert upload(http, b"").status_code in {200, 201}
    assert http.get(f"/v1/artifacts/{compute_sha256(b'')}").content == b""


def test_head_tells_what_get_would_send(http: httpx2.Client) -> None:
    content = os.urandom(70_000)
    path = upload(http, content).json()["url"]
    told, got = http.head(path), http.get(path)
    assert told.status_code == 200
    assert told.content == b""
    changing = {"date", "transfer-encoding", "traceparent", "x-request-id"}
    assert {k: v for k, v in told.headers.items() if k not in changing} == {
        k: v for k, v in got.headers.items() if k not in changing
    }


def test_who_holds_a_file_is_not_sent_it_again(http: httpx2.Client) -> None:
    path = upload(http, b"held").json()["url"]
    for method in ("GET", "HEAD"):
        response = http.request(method, path, headers={"If-None-Match": http.get(path).headers["etag"]})
        assert response.status_code == 304
        assert response.content == b""


def test_an_absent_file_is_a_problem(http: httpx2.Client) -> None:
    digest = compute_sha256(b"never sent")
    assert read_problem(http.get(f"/v1/artifacts/{digest}"), 404).errors[0].got == digest
    assert http.head(f"/v1/artifacts/{digest}").status_code == 404


def test_other_bytes_than_promised_are_not_kept(http: httpx2.Client, data_dir: Path) -> None:
    promised = compute_sha256(b"promised")
    problem = read_problem(http.put(f"/v1/artifacts/{promised}", content=b"sent"), 422)
    assert problem.code == "digest_mismatch"
    assert problem.errors[0].expected == promised
    assert compute_sha256(b"sent") in problem.errors[0].got
    assert http.head(f"/v1/artifacts/{promised}").status_code == 404
    assert http.head(f"/v1/artifacts/{compute_sha256(b'sent')}").status_code == 404
    assert list_unfinished(data_dir) == []


def test_a_file_over_the_limit_is_refused_whether_announced_or_not(http: httpx2.Client, data_dir: Path) -> None:
    content = b"x" * (UPLOAD_LIMIT + 1)
    path = f"/v1/artifacts/{compute_sha256(content)}"
    announced = http.put(path, content=content)
    chunked = http.put(path, content=iter([content[:1000], content[1000:]]))
    for response in (announced, chunked):
        problem = read_problem(response, 413)
        assert problem.errors[0].expected == f"at most {UPLOAD_LIMIT} bytes"
    assert list_unfinished(data_dir) == []
    assert upload(http, content[1:]).status_code == 201


def test_a_client_that_asks_first_is_refused_before_it_sends(url: str) -> None:
    with socket.create_connection((urlsplit(url).hostname, urlsplit(url).port), timeout=10) as connection:
        headers = (f"Host: {urlsplit(url).netloc}", f"Content-Length: {10 * UPLOAD_LIMIT}", "Expect: 100-continue")
        connection.sendall("\r\n".join((f"PUT /v1/artifacts/{'0' * 64} HTTP/1.1", *headers, "", "")).encode())
        assert connection.recv(12) == b"HTTP/1.1 413"


def test_a_compressed_file_is_refused(http: httpx2.Client) -> None:
    response = http.put(f"/v1/artifacts/{'0' * 64}", content=b"x", headers={"Content-Encoding": "gzip"})
    assert read_problem(response, 415).errors[0].where == "header: Content-Encoding"


def test_a_client_that_hangs_up_leaves_nothing(
    url: str, http: httpx2.Client, data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    connection = http_connection(url)
    connection.putrequest("PUT", f"/v1/artifacts/{'0' * 64}")
    connection.putheader("Content-Length", str(UPLOAD_LIMIT))
    connection.endheaders()
    connection.send(b"x" * (UPLOAD_LIMIT // 2))
    eventually(lambda: len(list_unfinished(data_dir)) == 1)
    connection.close()
    eventually(lambda: list_unfinished(data_dir) == [])
    assert http.get("/healthz").status_code == 200
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_two_clients_that_send_one_file_at_once_do_no_harm(http: httpx2.Client) -> None:
    content = os.urandom(2_000_000)
    statuses: list[int] = []

    def send() -> None:
        with httpx2.Client(base_url=http.base_url, timeout=30) as client:
            statuses.append(upload(client, content).status_code)

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(statuses) <= {200, 201}
    assert len(statuses) == 4
    assert http.get(f"/v1/artifacts/{compute_sha256(content)}").content == content


def http_connection(url: str) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(str(urlsplit(url).hostname), urlsplit(url).port, timeout=10)
