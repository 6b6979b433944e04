"""Failures of the store: those that pass are Unavailable and say so, a bug stays a bug."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from redis.exceptions import ResponseError

from schemas.errors import Unavailable
from storage.connection import connect, connect_async, reaching_store
from storage.leases import Leases
from storage.queue import JobQueue
from tests.storage.desk import Desk, open_desk
from tests.storage.valkey import RunningValkey


def test_a_store_that_is_not_there_is_unavailable_soon(tmp_path: Path) -> None:
    url = f"unix://{tmp_path}/none.sock"

    async def ask() -> None:
        async with connect_async(url) as client:
            await JobQueue(client).ping()

    started = time.monotonic()
    with pytest.raises(Unavailable) as raised:
        asyncio.run(ask())
    assert time.monotonic() - started < 3
    assert raised.value.faults[0].advice
    with connect(url, retries=1) as client, pytest.raises(Unavailable):
        Leases(client).sweep()


def test_a_worker_waits_for_a_store_that_restarts(valkey: RunningValkey) -> None:
    with open_desk(valkey) as desk, connect(valkey.redis_url) as client:
        id = desk.accept()
        leases = Leases(client)
        assert leases.claim(id, "w") is not None
        valkey.kill()
        valkey.start()
        assert leases.beat(id, 1) == "ok"


def test_a_full_store_is_unavailable_and_keeps_what_it_has(valkey: RunningValkey) -> None:
    with open_desk(valkey) as desk:
        id = desk.accept()
        desk.client.config_set("maxmemory", 1)
        with pytest.raises(Unavailable):
            desk.accept()
        desk.client.config_set("maxmemory", 0)
        assert desk.list_ids(10) == ([id], None)


def test_a_replica_that_must_not_be_written_is_unavailable(valkey: RunningValkey) -> None:
    with open_desk(valkey) as desk:
        desk.client.replicaof("127.0.0.1", "1")
        with pytest.raises(Unavailable):
            desk.sweep()


def test_a_primary_without_its_replica_is_unavailable(valkey: RunningValkey) -> None:
    with open_desk(valkey) as desk:
        desk.client.config_set("min-replicas-to-write", 1)
        with pytest.raises(Unavailable):
            desk.accept()


def test_a_script_that_keeps_the_store_busy_is_unavailable(valkey: RunningValkey) -> None:
    with open_desk(valkey) as desk, valkey.connect() as killer, valkey.connect() as other, ThreadPoolExecutor(1) as pool:
        killer.config_set("busy-reply-threshold", 10)
        assert desk.sweep() == []
        endless = pool.submit(other.eval, "while true do end", 0)
        time.sleep(0.3)
        with pytest.raises(Unavailable):
            desk.sweep()
        killer.script_kill()
        with pytest.raises(ResponseError):
            endless.result()
        assert desk.sweep() == []


def test_a_bug_is_not_taken_for_an_outage(desk: Desk) -> None:
    desk.client.set("faultline:pending", "no sorted set")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        desk.sweep()
    with pytest.raises(KeyError), reaching_store():
        raise KeyError


def test_scripts_that_the_server_forgot_are_sent_again(desk: Desk) -> None:
    desk.accept()
    desk.client.script_flush()
    assert desk.sweep() == []
    desk.client.script_flush()
    assert len(desk.list_ids(10)[0]) == 1
