"""A real server for tests, started as the embedded default starts it."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
import redis.asyncio

from storage.connection import connect, connect_async
from storage.embedded import EmbeddedStore, find_server

READY_WITHIN_S = 10.0


class RunningValkey:
    """A server that a test may kill and start again on the same data."""

    def __init__(self, data_dir: Path) -> None:
        self.store = EmbeddedStore(find_server(), data_dir)
        self.redis_url = self.store.redis_url
        self.broker_url = self.store.broker_url
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        assert self._process is None
        self._process = subprocess.Popen(self.store.command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + READY_WITHIN_S
        with connect(self.redis_url, retries=0) as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.ConnectionError:
                    assert self._process.poll() is None
                    assert time.monotonic() < deadline
                    time.sleep(0.005)

    def kill(self) -> None:
        """Kill it as a power cut would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it as politely as it lets us."""
        if self._process is None:
            return
        try:
            self._end(signal.SIGTERM)
        except subprocess.TimeoutExpired:
            self.kill()

    def _end(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)
        self._process.wait(timeout=10)
        self._process = None

    def connect(self, retries: int = 2) -> redis.Redis:
        return connect(self.redis_url, retries)

    def connect_async(self, retries: int = 2) -> redis.asyncio.Redis:
        return connect_async(self.redis_url, retries)


@contextmanager
def running_valkey(folder: Path) -> Iterator[RunningValkey]:
    """Run a server whose data is below `folder`; it is gone at the end, killed or not."""
    server = RunningValkey(folder / "store")
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[RunningValkey]:
    with running_valkey(tmp_path) as server:
        yield server
