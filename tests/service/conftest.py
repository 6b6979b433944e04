"""A store, an API and a client for the tests of the API, and the worker's side of the store to move jobs along."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis

from schemas.base import compute_sha256
from service.settings import Settings
from storage.artifacts import FileArtifactStore
from storage.connection import connect
from storage.leases import Claim, Leases
from tests.service import documents
from tests.service.running import running_app
from tests.storage.valkey import running_valkey

UPLOAD_LIMIT = 3 * 1024 * 1024
REQUEST_LIMIT = 64 * 1024


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server.redis_url


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def url(redis_url: str, data_dir: Path) -> Iterator[str]:
    settings = Settings(
        redis_url=redis_url, data_dir=data_dir, max_upload_bytes=UPLOAD_LIMIT, max_request_bytes=REQUEST_LIMIT, max_wait_s=20
    )
    with running_app(settings) as found:
        yield found


@pytest.fixture
def store(redis_url: str) -> Iterator[redis.Redis]:
    """The store without jobs and messages; what kombu remembers of its queues stays, for it declares them once."""
    with connect(redis_url) as client:
        for key in client.scan_iter("faultline*"):
            client.delete(key)
        yield client


@pytest.fixture
def http(url: str, store: redis.Redis) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=url, timeout=30) as client:
        yield client


@dataclass(frozen=True)
class Worker:
    """The worker's side: takes jobs and ends them without running anything."""

    leases: Leases
    artifacts: FileArtifactStore

    def claim(self, audit_id: str) -> Claim:
        claim = self.leases.claim(audit_id, "test")
        assert claim is not None
        return claim

    def succeed(self, audit_id: str, verdict: str | None = None) -> None:
        claim = self.claim(audit_id)
        digest = self.artifacts.put_bytes(claim.owner, documents.REPORT)
        assert self.leases.finish(audit_id, claim.attempt, "succeeded", report_sha256=digest, verdict=verdict)

    def fail(self, audit_id: str, problem: dict[str, Any]) -> None:
        assert self.leases.finish(audit_id, self.claim(audit_id).attempt, "failed", problem=problem)


@pytest.fixture
def worker(store: redis.Redis, data_dir: Path) -> Worker:
    return Worker(Leases(store), FileArtifactStore(data_dir / "artifacts"))


@pytest.fixture
def submit(http: httpx2.Client) -> Callable[..., dict[str, Any]]:
    """Post an audit whose artifacts are there; return its job."""

    def post(headers: dict[str, str] | None = None, **fields: Any) -> dict[str, Any]:
        for content in (documents.MODEL, documents.DATA):
            upload(http, content)
        response = http.post("/v1/audits", json=documents.build_request(**fields), headers=headers or {})
        assert response.status_code == 202, response.text
        job: dict[str, Any] = response.json()
        return job

    return post


def upload(http: httpx2.Client, content: bytes) -> httpx2.Response:
    return http.put(f"/v1/artifacts/{compute_sha256(content)}", content=content)
