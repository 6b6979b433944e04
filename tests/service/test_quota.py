"""What a tenant may store: counted right, whoever sends at the same time and whatever goes meanwhile."""

import os
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
import redis

from schemas.base import compute_sha256
from schemas.errors import QuotaExceeded
from service.settings import Settings
from storage.artifacts import FileArtifactStore
from storage.quota import Quota
from storage.resumable import ResumableUploads
from tests.service.conftest import upload
from tests.service.problems import read_problem
from tests.service.running import running_app
from tests.service.test_uploads import begin, patch

LIMIT = 1000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "artifacts"


@pytest.fixture
def limited(redis_url: str, store: redis.Redis, tmp_path: Path) -> Iterator[httpx2.Client]:
    settings = Settings(redis_url=redis_url, data_dir=tmp_path, quota_bytes=LIMIT)
    with running_app(settings) as url, httpx2.Client(base_url=url, timeout=30) as http:
        yield http


def build_quota(root: Path) -> tuple[Quota, FileArtifactStore, ResumableUploads]:
    artifacts = FileArtifactStore(root)
    uploads = ResumableUploads(root, artifacts)
    return Quota(root, artifacts, uploads, LIMIT), artifacts, uploads


def test_uploads_that_begin_at_once_are_let_in_as_far_as_they_fit(root: Path) -> None:
    quota, _, uploads = build_quota(root)
    barrier = threading.Barrier(8)

    def start(_: int) -> bool:
        barrier.wait()
        try:
            quota.begin("acme", 300, None)
        except QuotaExceeded:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(start, range(8))) == 3
    assert uploads.sum_announced("acme") == 900
    quota.begin("globex", LIMIT, None)


def test_the_count_follows_every_change(root: Path) -> None:
    quota, artifacts, uploads = build_quota(root)
    chance, held = random.Random(3), dict[str, int]()
    begun: dict[str, int] = {}
    for _ in range(300):
        size, act = chance.randrange(1, 400), chance.randrange(5)
        if act <= 1:
            left = LIMIT - sum(held.values()) - sum(begun.values())
            if size <= left:
                begun[quota.begin("acme", size, None).id] = size
            else:
                with pytest.raises(QuotaExceeded) as raised:
                    quota.begin("acme", size, None)
                assert raised.value.faults[0].expected == f"at most {left} bytes more"
        elif act == 2 and begun:
            id = chance.choice(list(begun))
            progress = uploads.find("acme", id)
            assert progress is not None
            with uploads.open("acme", progress) as part:
                part.write(chance.randbytes(begun[id]))
            held[uploads.complete("acme", progress).sha256] = begun.pop(id)
        elif act == 3 and begun:
            id = chance.choice(list(begun))
            assert uploads.abandon("acme", id)
            del begun[id]
        elif held:
            sha256 = chance.choice(list(held))
            assert artifacts.remove("acme", sha256, 2**63)
            del held[sha256]


def test_what_does_not_fit_is_refused_with_what_is_used_and_left(limited: httpx2.Client) -> None:
    content = os.urandom(600)
    assert upload(limited, content).status_code == 201
    location = begin(limited, length=300).headers["location"]
    answers: list[Callable[[], httpx2.Response]] = [
        lambda: begin(limited, length=101),
        lambda: upload(limited, os.urandom(101)),
        lambda: limited.put(f"/v1/artifacts/{compute_sha256(b'x' * 101)}", content=iter([b"x" * 101])),
    ]
    for answer in answers:
        refused = answer()
        problem = read_problem(refused, 429)
        assert problem.code == "quota_exceeded"
        assert problem.errors[0].expected == "at most 100 bytes more"
        assert "600 are stored and 300 announced" in problem.errors[0].advice
        assert int(refused.headers["retry-after"]) >= 30
    assert upload(limited, os.urandom(100)).status_code == 201
    assert upload(limited, content).status_code == 200
    assert limited.delete(location).status_code == 204
    assert begin(limited, length=300).status_code == 201


def test_a_deleted_artifact_makes_room(limited: httpx2.Client) -> None:
    content = os.urandom(LIMIT)
    artifact = upload(limited, content).json()
    read_problem(upload(limited, b"more"), 429)
    assert limited.delete(artifact["url"]).status_code == 204
    assert upload(limited, b"more").status_code == 201


def test_files_sent_at_once_never_pass_the_limit(limited: httpx2.Client, tmp_path: Path) -> None:
    def send(_: int) -> int:
        with httpx2.Client(base_url=limited.base_url, timeout=30) as http:
            return upload(http, os.urandom(300)).status_code

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(send, range(8)))
    assert set(statuses) <= {201, 429}
    stored = FileArtifactStore(tmp_path / "artifacts").sum_sizes("local")
    assert stored == 300 * statuses.count(201)
    assert 0 < stored <= LIMIT
    assert list(tmp_path.rglob("*.part")) == []


def test_an_upload_that_was_let_in_is_never_refused_later(limited: httpx2.Client) -> None:
    content = os.urandom(900)
    location = begin(limited, content).headers["location"]
    read_problem(upload(limited, os.urandom(101)), 429)
    assert patch(limited, location, 0, content[:500]).status_code == 204
    assert patch(limited, location, 500, content[500:]).status_code == 201
