"""The API as the process that an operator starts: its end, its memory."""

import signal
import threading
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import httpx2
import redis

from tests.service import documents
from tests.service.conftest import upload
from tests.service.running import running_process

MIB = 1024 * 1024
SIZE_MIB = 200


def test_told_to_stop_it_answers_who_waits_and_ends(redis_url: str, store: redis.Redis, tmp_path: Path) -> None:
    with running_process(redis_url, tmp_path) as (process, url), httpx2.Client(base_url=url, timeout=60) as http:
        for content in (documents.MODEL, documents.DATA):
            upload(http, content)
        path = http.post("/v1/audits", json=documents.build_request()).json()["links"]["self"]
        timer = threading.Timer(0.5, process.send_signal, [signal.SIGTERM])
        timer.start()
        start = time.monotonic()
        response = http.get(path, headers={"Prefer": "wait=50"})
        assert response.json()["state"] == "queued"
        assert time.monotonic() - start < 8
        assert process.wait(timeout=10) in {0, -signal.SIGTERM}
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
        timer.join()


def test_an_upload_takes_memory_that_does_not_grow_with_it(redis_url: str, tmp_path: Path) -> None:
    block = bytes(range(256)) * 4096
    digest = sha256()
    for _ in range(SIZE_MIB):
        digest.update(block)

    def send() -> Iterator[bytes]:
        for _ in range(SIZE_MIB):
            yield block

    path = f"/v1/artifacts/{digest.hexdigest()}"
    with running_process(redis_url, tmp_path) as (process, url), httpx2.Client(base_url=url, timeout=120) as http:
        upload(http, block * 4)
        before = read_peak_mib(process.pid)
        assert http.put(path, content=send()).status_code == 201
        assert read_peak_mib(process.pid) - before < 24
        with http.stream("GET", path) as response:
            assert sum(len(chunk) for chunk in response.iter_bytes()) == SIZE_MIB * MIB
        assert read_peak_mib(process.pid) - before < 24


def read_peak_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))
