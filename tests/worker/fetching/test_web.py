"""What a server may do to a fetch: be slow, large, cut off, compressed, of another name; and what is tried again."""

import gzip
import threading
import time
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import trustme

from schemas.base import compute_sha256
from schemas.errors import FetchError, FetchFailed, NotFound, Unavailable
from schemas.references import NamedFile
from storage.artifacts import FileArtifactStore
from tests.worker.fetching.servers import PUBLIC, SITE_ADDRESS, Names, Page, Site, make_limits, running_site
from worker.fetching.fetch import Errand, Fetcher

MODEL = b"model" * 1000
DIGEST = compute_sha256(MODEL)
NAMES = Names({PUBLIC: [SITE_ADDRESS], "other.test": [SITE_ADDRESS], "closed.test": ["127.0.0.3"]})


class Told:
    """One errand, and what came of it."""

    def __init__(
        self, known: dict[str, str] | None = None, check: Callable[[], None] = lambda: None, owner: str = "local"
    ) -> None:
        self.noted: dict[str, str] = {}
        self.progress: list[tuple[int, int]] = []
        self.errand = Errand(
            owner, known or {}, self.noted.__setitem__, lambda done, total: self.progress.append((done, total)), check
        )


@pytest.fixture
def artifacts(tmp_path: Path) -> FileArtifactStore:
    return FileArtifactStore(tmp_path / "artifacts")


@pytest.fixture
def make(site: Site, ca_file: Path, artifacts: FileArtifactStore, tmp_path: Path) -> Callable[..., Fetcher]:
    return lambda **changes: Fetcher(make_limits(site, ca_file=ca_file, **changes), artifacts, tmp_path, NAMES)


def fetch(fetcher: Fetcher, uri: str, sha256: str | None = None, told: Told | None = None) -> str:
    return fetcher.fetch_all([NamedFile("model", uri, sha256)], (told or Told()).errand)["model"]


def list_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]


def test_a_file_becomes_an_artifact_of_its_owner(
    make: Callable[..., Fetcher], site: Site, artifacts: FileArtifactStore, tmp_path: Path
) -> None:
    site.pages["/model.onnx"] = Page(status=301, headers={"location": f"//models.test:{site.port}/deep/er?a=b%20c"})
    site.pages["/deep/er"] = Page(MODEL)
    told = Told()
    assert fetch(make(), site.url(), told=told) == DIGEST
    path = artifacts.path("local", DIGEST)
    assert path is not None
    assert path.read_bytes() == MODEL
    assert artifacts.path("another", DIGEST) is None
    assert [path for _, path, _, _ in site.requests] == ["/model.onnx", "/deep/er?a=b%20c"]
    assert [headers["host"] for _, _, headers, _ in site.requests] == [f"models.test:{site.port}"] * 2
    assert told.noted == {"model": DIGEST}
    assert told.progress[-1] == (len(MODEL), len(MODEL))
    assert list_files(tmp_path) == [path]


def test_pages_that_come_in_chunks_and_without_a_length_are_read_whole(make: Callable[..., Fetcher], site: Site) -> None:
    def write_chunks(handler: BaseHTTPRequestHandler) -> None:
        for part in (MODEL[:7], MODEL[7:]):
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
        handler.wfile.write(b"0\r\n\r\n")

    site.pages["/chunks"] = Page(headers={"transfer-encoding": "chunked"}, write=write_chunks)
    assert fetch(make(), site.url("/chunks")) == DIGEST


def test_what_is_pinned_and_there_is_not_fetched_again(
    make: Callable[..., Fetcher], site: Site, artifacts: FileArtifactStore
) -> None:
    site.pages["/model.onnx"] = Page(MODEL)
    fetcher, told = make(), Told()
    assert fetch(fetcher, site.url(), DIGEST) == fetch(fetcher, site.url(), DIGEST, told) == DIGEST
    assert len(site.requests) == 1
    assert told.noted == {"model": DIGEST}
    assert fetch(fetcher, site.url(), told=Told({"model": DIGEST})) == DIGEST
    assert len(site.requests) == 1
    # Without a pin and without an earlier attempt nobody knows what lies there now.
    assert fetch(fetcher, site.url()) == DIGEST
    assert len(site.requests) == 2


def test_another_owners_artifact_does_not_save_the_fetch(
    make: Callable[..., Fetcher], site: Site, artifacts: FileArtifactStore
) -> None:
    artifacts.put_bytes("another", MODEL)
    with pytest.raises(FetchFailed, match="404"):
        fetch(make(), site.url(), DIGEST)


@pytest.mark.parametrize("told", [Told({"model": "0" * 64}), Told()], ids=["as first read", "as pinned"])
def test_another_file_than_the_one_that_was_meant_is_refused(
    told: Told, make: Callable[..., Fetcher], site: Site, tmp_path: Path
) -> None:
    site.pages["/model.onnx"] = Page(MODEL)
    with pytest.raises(FetchFailed, match="has not the sha256") as failed:
        fetch(make(), site.url(), None if told.errand.known else "0" * 64, told)
    assert (failed.value.faults[0].where, failed.value.faults[0].expected) == ("/model/uri", "0" * 64)
    assert DIGEST in failed.value.faults[0].got
    assert list_files(tmp_path) == []
    assert len(site.requests) == 1


def test_a_query_that_may_hold_a_signature_is_never_shown(make: Callable[..., Fetcher], site: Site) -> None:
    for status in (404, 503):
        site.pages["/model.onnx"] = Page(status=status)
        with pytest.raises(FetchFailed) as failed:
            fetch(make(), site.url("/model.onnx?signature=secret"))
        assert "secret" not in str(failed.value.faults)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_server_that_fails_for_the_moment_is_asked_again(status: int, make: Callable[..., Fetcher], site: Site) -> None:
    site.pages["/model.onnx"] = [Page(status=status), Page(MODEL)]
    assert fetch(make(), site.url()) == DIGEST
    assert len(site.requests) == 2


@pytest.mark.parametrize("status", [204, 206, 304, 400, 401, 403, 404, 410, 451])
def test_an_answer_that_stays_is_believed_at_once(status: int, make: Callable[..., Fetcher], site: Site) -> None:
    site.pages["/model.onnx"] = Page(status=status)
    with pytest.raises(FetchFailed, match=f"answers {status}"):
        fetch(make(), site.url())
    assert len(site.requests) == 1


def test_attempts_end(make: Callable[..., Fetcher], site: Site) -> None:
    site.pages["/model.onnx"] = Page(status=503)
    with pytest.raises(FetchFailed, match="in 2 attempts: the server answers 503"):
        fetch(make(), site.url())
    assert len(site.requests) == 2


def test_the_server_says_when_to_come_back(make: Callable[..., Fetcher], site: Site) -> None:
    site.pages["/model.onnx"] = [Page(status=429, headers={"retry-after": "1"}), Page(MODEL)]
    began = time.monotonic()
    assert fetch(make(), site.url()) == DIGEST
    assert time.monotonic() - began >= 1


def write_half(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(MODEL[:100])
    handler.connection.close()


def write_garbage(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"zz\r\nnot a chunk\r\n")


@pytest.mark.parametrize(
    "page",
    [
        Page(headers={"content-length": str(len(MODEL))}, write=write_half),
        Page(headers={"transfer-encoding": "chunked"}, write=write_garbage),
        Page(write=write_half),
    ],
    ids=["shorter than announced", "garbled chunks", "cut off without a length"],
)
def test_an_answer_that_is_cut_off_is_no_file(page: Page, make: Callable[..., Fetcher], site: Site, tmp_path: Path) -> None:
    site.pages["/model.onnx"] = page
    with pytest.raises(FetchFailed, match="in 2 attempts"):
        fetch(make(), site.url())
    assert list_files(tmp_path) == []


@pytest.mark.parametrize("size", [b"-1", b"-5", b"-10000", b"+0x5", b" 1_0", b"ffffffffffffffffffffffff"])
def test_a_chunk_of_an_odd_size_fills_no_memory(size: bytes, make: Callable[..., Fetcher], site: Site, tmp_path: Path) -> None:
    """The library reads a chunk of size -1 to the end of the connection, at once."""

    def write(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(size + b"\r\n")
        for _ in range(256):
            handler.wfile.write(bytes(2**20))

    site.pages["/model.onnx"] = Page(headers={"transfer-encoding": "chunked"}, write=write)
    tracemalloc.start()
    with pytest.raises(FetchError):
        fetch(make(fetch_max_bytes=2**24), site.url())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**24
    assert list_files(tmp_path) == []


def drip(handler: BaseHTTPRequestHandler) -> None:
    for _ in range(200):
        handler.wfile.write(b"x")
        time.sleep(0.05)


def drip_headers(handler: BaseHTTPRequestHandler) -> None:
    for _ in range(200):
        handler.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        time.sleep(0.05)


@pytest.mark.parametrize(
    "page",
    [
        Page(headers={"content-length": "200"}, write=drip),
        Page(status=100, write=drip_headers),
        Page(status=302, headers={"location": "/model.onnx", "content-length": "200"}, write=drip),
    ],
    ids=["body", "endless headers", "redirects"],
)
def test_a_slow_drip_ends_with_the_time_for_the_file(page: Page, make: Callable[..., Fetcher], site: Site) -> None:
    site.pages["/model.onnx"] = page
    began = time.monotonic()
    with pytest.raises(FetchError):
        fetch(make(fetch_timeout_s=0.7), site.url())
    assert time.monotonic() - began < 3


def test_silence_ends_sooner(make: Callable[..., Fetcher], site: Site) -> None:
    site.pages["/model.onnx"] = Page(headers={"content-length": "9"}, write=lambda _: time.sleep(2))
    began = time.monotonic()
    with pytest.raises(FetchFailed, match=r"no answer within 0\.3 s"):
        fetch(make(fetch_silence_s=0.3, fetch_tries=1), site.url())
    assert time.monotonic() - began < 2


def flood(handler: BaseHTTPRequestHandler) -> None:
    block = bytes(2**16)
    for _ in range(1000):
        handler.wfile.write(b"10000\r\n" + block + b"\r\n")


@pytest.mark.parametrize(
    "page",
    [
        Page(headers={"content-length": str(2**40)}, write=lambda _: None),
        Page(headers={"transfer-encoding": "chunked"}, write=flood),
    ],
    ids=["announced", "unannounced"],
)
def test_a_file_over_the_limit_is_given_up(page: Page, make: Callable[..., Fetcher], site: Site, tmp_path: Path) -> None:
    site.pages["/model.onnx"] = page
    with pytest.raises(FetchFailed, match="too large"):
        fetch(make(fetch_max_bytes=2**20), site.url())
    assert list_files(tmp_path) == []
    assert len(site.requests) == 1


def test_a_disk_without_room_is_not_the_jobs_fault(make: Callable[..., Fetcher], site: Site) -> None:
    site.pages["/model.onnx"] = Page(MODEL)
    with pytest.raises(Unavailable, match="no room"):
        fetch(make(fetch_free_bytes=2**60), site.url())


def test_a_bomb_is_not_unpacked(make: Callable[..., Fetcher], site: Site) -> None:
    bomb = gzip.compress(bytes(2**24))
    site.pages["/model.onnx"] = Page(bomb, headers={"content-encoding": "gzip"})
    with pytest.raises(FetchFailed, match="compresses the file"):
        fetch(make(), site.url())
    # A file that is a gzip file by itself is kept as it is.
    site.pages["/model.onnx"] = Page(bomb)
    assert fetch(make(), site.url()) == compute_sha256(bomb)


def test_a_certificate_must_be_the_hosts_and_of_an_authority_that_is_trusted(
    make: Callable[..., Fetcher], site: Site, ca_file: Path, artifacts: FileArtifactStore, tmp_path: Path
) -> None:
    site.pages["/model.onnx"] = Page(MODEL)
    with pytest.raises(FetchFailed, match="certificate is not good"):
        fetch(make(), site.url(host="other.test"))
    with pytest.raises(FetchFailed, match="certificate is not good"):
        fetch(Fetcher(make_limits(site), artifacts, tmp_path, NAMES), site.url())
    with running_site(trustme.CA()) as stranger, pytest.raises(FetchFailed, match="certificate is not good"):
        fetch(Fetcher(make_limits(stranger, ca_file=ca_file), artifacts, tmp_path, NAMES), stranger.url())
    assert site.requests == []


def test_an_expired_certificate_is_refused(
    authority: trustme.CA, ca_file: Path, artifacts: FileArtifactStore, tmp_path: Path
) -> None:
    with running_site(authority, expires=datetime(2001, 1, 1, tzinfo=UTC)) as site:
        with pytest.raises(FetchFailed, match="certificate is not good") as failed:
            fetch(Fetcher(make_limits(site, ca_file=ca_file), artifacts, tmp_path, NAMES), site.url())
        assert "expired" in failed.value.faults[0].got


def test_an_address_may_be_named_when_it_is_permitted(make: Callable[..., Fetcher], site: Site) -> None:
    site.pages["/model.onnx"] = Page(MODEL)
    assert fetch(make(), site.url(host=SITE_ADDRESS)) == DIGEST


def test_plain_http_works_when_the_operator_allows_it(ca_file: Path, artifacts: FileArtifactStore, tmp_path: Path) -> None:
    with running_site(None) as plain:
        plain.pages["/model.onnx"] = Page(MODEL)
        limits = make_limits(plain, fetch_http=True)
        assert fetch(Fetcher(limits, artifacts, tmp_path, NAMES), plain.url(scheme="http")) == DIGEST


def test_nobody_there_is_tried_again_and_told(make: Callable[..., Fetcher], site: Site) -> None:
    with pytest.raises(FetchFailed, match="Connection refused"):
        fetch(make(fetch_private_networks="127.0.0.2/31"), site.url(host="closed.test"))


class Stopped(Exception):
    """What an interruption raises."""


@pytest.mark.parametrize("page", [Page(headers={"content-length": "200"}, write=drip), Page(status=503)], ids=["body", "pause"])
def test_an_interruption_ends_a_fetch_at_once(page: Page, make: Callable[..., Fetcher], site: Site, tmp_path: Path) -> None:
    stop = threading.Event()

    def check() -> None:
        if stop.is_set():
            raise Stopped

    site.pages["/model.onnx"] = page
    timer = threading.Timer(0.3, stop.set)
    timer.start()
    began = time.monotonic()
    with pytest.raises(Stopped):
        fetch(make(fetch_tries=20), site.url(), told=Told(check=check))
    assert time.monotonic() - began < 1.5
    assert list_files(tmp_path) == []


def test_resolving_that_hangs_can_be_interrupted(site: Site, artifacts: FileArtifactStore, tmp_path: Path) -> None:
    release = threading.Event()

    def resolve(_: str) -> list[str]:
        release.wait(10)
        return []

    fetcher = Fetcher(make_limits(site, fetch_silence_s=0.3, fetch_tries=1), artifacts, tmp_path, resolve)
    with pytest.raises(FetchFailed, match="while resolving"):
        fetch(fetcher, site.url())
    release.set()


def test_every_file_that_cannot_be_had_is_named_in_one_problem(make: Callable[..., Fetcher], site: Site) -> None:
    site.pages["/there"] = Page(MODEL)
    files = [
        NamedFile("model", site.url("/missing")),
        NamedFile("data", site.url("/there")),
        NamedFile("evaluate_on", site.url(host="127.0.0.1")),
        NamedFile("objective/program", "file:///etc/passwd"),
        NamedFile("policy", "s3://bucket/key"),
    ]
    told = Told()
    with pytest.raises(FetchFailed) as failed:
        make().fetch_all(files, told.errand)
    wheres: list[Any] = [fault.where for fault in failed.value.faults]
    assert wheres == ["/model/uri", "/evaluate_on/uri", "/objective/program/uri", "/policy/uri"]
    assert told.noted == {"data": DIGEST}


def test_nothing_is_fetched_for_a_job_whose_uploads_are_gone(make: Callable[..., Fetcher], site: Site) -> None:
    files = [NamedFile("model", site.url()), NamedFile("data", f"artifact:sha256:{DIGEST}")]
    with pytest.raises(NotFound) as missing:
        make().fetch_all(files, Told().errand)
    assert [fault.where for fault in missing.value.faults] == ["/data/uri"]
    assert site.requests == []
