"""Uploads in several requests: whatever breaks, the client goes on from where the file stands."""

import asyncio
import base64
import http.client
import logging
import os
import threading
from collections.abc import AsyncIterator
from contextlib import ExitStack, closing
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
import redis
from starlette.requests import ClientDisconnect

from schemas.base import compute_sha256
from service.uploads import write_blocks
from tests.service.conftest import UPLOAD_LIMIT, upload
from tests.service.eventually import eventually
from tests.service.problems import read_problem
from tests.service.running import running_process

CONTENT = os.urandom(2_500_000)
SHA256 = compute_sha256(CONTENT)
PARTIAL = {"Content-Type": "application/partial-upload"}


def describe_digest(content: bytes) -> str:
    return f"sha-256=:{base64.b64encode(bytes.fromhex(compute_sha256(content))).decode()}:"


def begin(http: httpx2.Client, content: bytes = CONTENT, length: int | None = None, digest: str | None = None) -> httpx2.Response:
    given = {} if digest is None else {"Repr-Digest": digest}
    return http.post("/v1/uploads", headers={"Upload-Length": str(len(content) if length is None else length), **given})


def begin_new(http: httpx2.Client, content: bytes = CONTENT, digest: str | None = None) -> str:
    response = begin(http, content, digest=digest)
    assert response.status_code == 201, response.text
    return str(response.headers["location"])


def patch(http: httpx2.Client, path: str, offset: int | str, content: bytes) -> httpx2.Response:
    return http.patch(path, content=content, headers={**PARTIAL, "Upload-Offset": str(offset)})


def read_offset(http: httpx2.Client, path: str) -> int:
    told = http.head(path)
    assert told.status_code == 200
    return int(told.headers["upload-offset"])


def finish(http: httpx2.Client, path: str) -> None:
    """Send what is missing of CONTENT, as often as another request comes in between."""
    offset = read_offset(http, path)
    while (response := patch(http, path, offset, CONTENT[offset:])).status_code == 409:
        if http.head(path).headers["upload-complete"] == "?1":
            return
        offset = int(response.headers["upload-offset"])
    assert response.json()["sha256"] == SHA256


def test_a_file_in_two_parts_is_an_artifact(http: httpx2.Client) -> None:
    content = os.urandom(1_500_000)
    begun = begin(http, content, digest=describe_digest(content))
    path = begun.headers["location"]
    assert begun.json() == {
        "id": path.rpartition("/")[2],
        "url": path,
        "length_bytes": len(content),
        "offset_bytes": 0,
        "artifact": None,
    }
    first = patch(http, path, 0, content[:1_000_001])
    assert (first.status_code, first.content) == (204, b"")
    for headers in (first.headers, http.head(path).headers):
        assert headers["upload-offset"] == "1000001"
        assert headers["upload-length"] == str(len(content))
        assert headers["upload-complete"] == "?0"
        assert headers["upload-limit"] == f"max-size={UPLOAD_LIMIT}, max-age=86400"
        assert headers["cache-control"] == "no-store"
    last = patch(http, path, 1_000_001, content[1_000_001:])
    assert last.status_code == 201
    assert last.headers["upload-complete"] == "?1"
    assert last.headers["location"] == last.json()["url"]
    assert http.get(last.json()["url"]).content == content
    state = http.get(path)
    assert state.json()["artifact"] == last.json()
    assert state.headers["upload-complete"] == "?1"


def test_after_the_end_nothing_is_appended_and_nothing_is_lost(http: httpx2.Client) -> None:
    path = begin_new(http)
    assert patch(http, path, 0, CONTENT).status_code in {200, 201}
    for offset, content in ((0, CONTENT), (len(CONTENT), b""), (len(CONTENT), b"more")):
        refused = patch(http, path, offset, content)
        read_problem(refused, 409)
        assert refused.headers["upload-offset"] == str(len(CONTENT))
    assert http.delete(path).status_code == 204
    read_problem(http.get(path), 404)
    assert http.get(f"/v1/artifacts/{SHA256}").content == CONTENT


def test_a_file_that_is_there_is_not_sent_again(http: httpx2.Client) -> None:
    content = os.urandom(1000)
    upload(http, content)
    answered = begin(http, content, digest="md5=:x:, " + describe_digest(content))
    assert answered.status_code == 200
    assert answered.headers["upload-complete"] == "?1"
    assert answered.json()["artifact"]["sha256"] == compute_sha256(content)
    assert answered.json()["id"] is None
    wrong = read_problem(begin(http, content, length=999, digest=describe_digest(content)), 422)
    assert wrong.errors[0].where == "header: Upload-Length"


def test_another_offset_is_refused_with_the_true_one(http: httpx2.Client) -> None:
    path = begin_new(http)
    patch(http, path, 0, CONTENT[:1000])
    for offset in (0, 999, 1001, 999_999_999_999_999):
        refused = patch(http, path, offset, CONTENT[1000:])
        problem = read_problem(refused, 409)
        assert (problem.errors[0].expected, problem.errors[0].got) == ("1000", str(offset))
        assert refused.headers["upload-offset"] == "1000"
    assert read_offset(http, path) == 1000


@pytest.mark.parametrize("value", ["-1", "1.5", "", "1e3", "0x10", "9" * 16, "+1", "1_0", "²", "nan"])
def test_what_is_no_number_of_bytes_is_refused(http: httpx2.Client, value: str) -> None:
    path = begin_new(http)
    headers = [(b"Content-Type", PARTIAL["Content-Type"].encode()), (b"Upload-Offset", value.encode())]
    assert read_problem(http.patch(path, content=b"x", headers=headers), 422).errors[0].where == "header: Upload-Offset"
    begun = http.post("/v1/uploads", headers=[(b"Upload-Length", value.encode())])
    assert read_problem(begun, 422).errors[0].where == "header: Upload-Length"
    assert read_offset(http, path) == 0


@pytest.mark.parametrize("digest", ["", "sha-256", "sha-256=::", "sha-256=:AAAA:", "sha-512=:AAAA:", "sha-256=" + "0" * 64])
def test_a_digest_that_cannot_be_read_is_refused(http: httpx2.Client, digest: str) -> None:
    assert read_problem(begin(http, digest=digest), 422).errors[0].where == "header: Repr-Digest"


def test_lengths_over_the_limit_and_bodies_at_the_beginning_are_refused(http: httpx2.Client) -> None:
    assert read_problem(begin(http, length=UPLOAD_LIMIT + 1), 413).errors[0].expected == f"at most {UPLOAD_LIMIT} bytes"
    read_problem(http.post("/v1/uploads", headers={"Upload-Length": "5"}, content=b"hello"), 413)


def test_more_than_announced_is_refused_whether_counted_or_not(http: httpx2.Client) -> None:
    path = begin_new(http)
    counted = patch(http, path, 0, CONTENT + b"x")
    assert read_problem(counted, 413).errors[0].expected == f"at most {len(CONTENT)} bytes"
    assert read_offset(http, path) == 0
    pieces = iter([CONTENT[:2_000_000], CONTENT[2_000_000:], b"x"])
    read_problem(http.patch(path, content=pieces, headers={**PARTIAL, "Upload-Offset": "0"}), 413)
    offset = read_offset(http, path)
    assert offset <= len(CONTENT)
    assert patch(http, path, offset, CONTENT[offset:]).json()["sha256"] == SHA256


def test_a_body_without_a_length_is_taken(http: httpx2.Client) -> None:
    path = begin_new(http)
    pieces = (CONTENT[at : at + 77_777] for at in range(0, len(CONTENT), 77_777))
    done = http.patch(path, content=pieces, headers={**PARTIAL, "Upload-Offset": "0"})
    assert done.json()["sha256"] == SHA256


def test_an_empty_file_is_completed_by_an_empty_part(http: httpx2.Client) -> None:
    done = patch(http, begin_new(http, b""), 0, b"")
    assert done.json()["sha256"] == compute_sha256(b"")


def test_other_media_and_encodings_are_refused(http: httpx2.Client) -> None:
    path = begin_new(http)
    for headers in ({"Content-Type": "application/json"}, {}, {**PARTIAL, "Content-Encoding": "gzip"}):
        read_problem(http.patch(path, content=CONTENT, headers={**headers, "Upload-Offset": "0"}), 415)
    assert read_offset(http, path) == 0


def test_other_bytes_than_announced_are_not_kept(http: httpx2.Client, data_dir: Path) -> None:
    path = begin_new(http, digest=describe_digest(b"something else"))
    problem = read_problem(patch(http, path, 0, CONTENT[::-1]), 422)
    assert problem.code == "digest_mismatch"
    read_problem(http.get(path), 404)
    assert http.head(f"/v1/artifacts/{compute_sha256(CONTENT[::-1])}").status_code == 404


def test_who_gives_up_leaves_nothing(http: httpx2.Client, data_dir: Path) -> None:
    path = begin_new(http)
    patch(http, path, 0, CONTENT[:1000])
    assert http.delete(path).status_code == 204
    for method in ("GET", "DELETE"):
        read_problem(http.request(method, path), 404)
    read_problem(patch(http, path, 1000, CONTENT[1000:]), 404)
    assert list(data_dir.rglob(f"*{path.rpartition('/')[2]}*")) == []


def start_patch(url: str, path: str, offset: int, **more: str) -> http.client.HTTPConnection:
    """Announce the rest of CONTENT and send nothing of it yet."""
    connection = http.client.HTTPConnection(str(urlsplit(url).hostname), urlsplit(url).port, timeout=10)
    connection.putrequest("PATCH", path)
    for name, value in {**PARTIAL, "Upload-Offset": offset, "Content-Length": len(CONTENT) - offset, **more}.items():
        connection.putheader(name, str(value))
    connection.endheaders()
    return connection


def test_a_broken_connection_keeps_what_arrived(url: str, http: httpx2.Client, caplog: pytest.LogCaptureFixture) -> None:
    path = begin_new(http)
    with closing(start_patch(url, path, 0)) as connection:
        connection.send(CONTENT[:2_000_000])
        eventually(lambda: read_offset(http, path) > 0)
    finish(http, path)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_what_came_before_a_broken_connection_is_written() -> None:
    written: list[bytes] = []

    async def break_off() -> AsyncIterator[bytes]:
        yield b"ten "
        yield b"bytes."
        raise ClientDisconnect

    with pytest.raises(ClientDisconnect):
        asyncio.run(write_blocks(written.append, break_off()))
    assert written == [b"ten bytes."]


def test_a_request_that_hangs_keeps_nobody_from_going_on(url: str, http: httpx2.Client) -> None:
    path = begin_new(http)
    with closing(start_patch(url, path, 0)) as hanging:
        hanging.send(CONTENT[:1_500_000])
        eventually(lambda: read_offset(http, path) > 0)
        finish(http, path)
        hanging.send(CONTENT[1_500_000:])
        answer = hanging.getresponse()
        assert (answer.status, answer.headers["upload-offset"]) == (409, str(len(CONTENT)))
    assert http.get(f"/v1/artifacts/{SHA256}").content == CONTENT


def test_of_two_requests_at_once_one_is_refused(http: httpx2.Client) -> None:
    path = begin_new(http)
    statuses: list[int] = []

    def send() -> None:
        with httpx2.Client(base_url=http.base_url, timeout=30) as client:
            statuses.append(patch(client, path, 0, CONTENT).status_code)

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(statuses) == 4
    assert set(statuses) <= {200, 201, 409}
    finish(http, path)
    assert http.get(f"/v1/artifacts/{SHA256}").content == CONTENT


def test_one_upload_goes_on_at_another_process_after_a_kill(redis_url: str, store: redis.Redis, tmp_path: Path) -> None:
    with ExitStack() as stack:
        first, first_url = stack.enter_context(running_process(redis_url, tmp_path))
        _, second_url = stack.enter_context(running_process(redis_url, tmp_path))
        one, two = (stack.enter_context(httpx2.Client(base_url=url, timeout=30)) for url in (first_url, second_url))
        path = begin_new(one)
        assert patch(one, path, 0, CONTENT[:1000]).status_code == 204
        assert patch(two, path, 1000, CONTENT[1000:2000]).status_code == 204
        first.kill()
        first.wait()
        assert read_offset(two, path) == 2000
        assert patch(two, path, 2000, CONTENT[2000:]).json()["sha256"] == SHA256


def test_who_asks_before_sending_is_told_the_offset_without_sending(url: str, http: httpx2.Client) -> None:
    path = begin_new(http)
    with closing(start_patch(url, path, 7, Expect="100-continue")) as asking:
        answer = asking.getresponse()
        assert (answer.status, answer.headers["upload-offset"]) == (409, "0")
