"""Waiting for a change: woken at once, over one connection, through restarts of the store, and nothing left behind."""

import asyncio
import os
import signal
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import redis

from schemas.base import compute_sha256
from storage.changes import ChangeFeed
from storage.leases import Leases
from storage.queue import JobQueue
from tests.storage.desk import OWNER, make_request
from tests.storage.valkey import RunningValkey

WOKEN_WITHIN_S = 0.1
SILENCE_S = 0.1
Change = Callable[[str], Awaitable[object]]


@asynccontextmanager
async def open_queue(server: RunningValkey) -> AsyncIterator[JobQueue]:
    async with server.connect_async() as client:
        await client.flushall()
        queue = JobQueue(client)
        try:
            yield queue
        finally:
            await queue.close()


async def accept(queue: JobQueue, name: str = "a") -> tuple[str, int]:
    record = (await queue.accept(make_request(name), OWNER, compute_sha256(name.encode()), None, "")).record
    return record.id, record.revision


async def settle() -> None:
    """Let waiters subscribe and look once."""
    await asyncio.sleep(0.1)


async def measure_wake(wait: Awaitable[bool], change: Awaitable[object]) -> float:
    """Return the seconds from the end of the change to the waiter's return."""
    waiting = asyncio.ensure_future(wait)
    await settle()
    assert not waiting.done()
    await change
    changed = time.monotonic()
    assert await waiting
    return time.monotonic() - changed


def count_subscribers(server: RunningValkey) -> int:
    with server.connect() as client:
        ((_, count),) = client.pubsub_numsub("faultline:changes")
        return int(count)


def test_every_kind_of_change_wakes_and_does_so_within_a_tenth_of_a_second(shared_valkey: RunningValkey) -> None:
    async def scenario(client: redis.Redis) -> list[float]:
        leases = Leases(client)
        changes: list[Change] = [
            lambda id: asyncio.to_thread(leases.claim, id, "w"),
            lambda id: asyncio.to_thread(leases.beat, id, 1, {"done": 1}),
            lambda id: asyncio.to_thread(leases.release, id, 1),
            lambda id: asyncio.to_thread(leases.claim, id, "w"),
            lambda id: queue.cancel(id, OWNER),
            lambda id: asyncio.to_thread(leases.finish, id, 2, "failed", problem={}),
        ]
        async with open_queue(shared_valkey) as queue:
            id, revision = await accept(queue)
            delays = []
            for number, change in enumerate(changes):
                wait = queue.wait_for_change(id, revision + number, 5)
                delays.append(await measure_wake(wait, change(id)))
            return delays

    with shared_valkey.connect() as client:
        delays = asyncio.run(scenario(client))
    assert statistics.median(delays) < WOKEN_WITHIN_S


def test_a_change_that_happened_already_is_not_waited_for(shared_valkey: RunningValkey) -> None:
    async def scenario() -> None:
        async with open_queue(shared_valkey) as queue:
            id, revision = await accept(queue)
            assert await queue.wait_for_change(id, revision - 1, 5)
            assert await queue.wait_for_change("gone", 1, 5)

    asyncio.run(scenario())


def test_time_runs_out_quietly_and_other_jobs_changes_wake_nobody(shared_valkey: RunningValkey) -> None:
    async def scenario() -> None:
        async with open_queue(shared_valkey) as queue:
            id, revision = await accept(queue)
            started = time.monotonic()
            waiting = asyncio.ensure_future(queue.wait_for_change(id, revision, 0.3))
            await settle()
            await accept(queue, "b")
            assert not await waiting
            assert 0.25 < time.monotonic() - started < 1

    asyncio.run(scenario())


def test_a_hundred_waiters_share_one_connection_and_leave_nothing(shared_valkey: RunningValkey) -> None:
    async def scenario() -> None:
        async with open_queue(shared_valkey) as queue:
            jobs = [await accept(queue, str(number)) for number in range(10)]
            waiting = [asyncio.ensure_future(queue.wait_for_change(*jobs[number % 10], 5)) for number in range(100)]
            await settle()
            assert await asyncio.to_thread(count_subscribers, shared_valkey) == 1
            assert queue._feed.waiting == 100
            for one in waiting[50:]:
                one.cancel()
            for id, _ in jobs:
                await queue.cancel(id, OWNER)
            assert all(await asyncio.gather(*waiting[:50]))
            await asyncio.wait(waiting)
            assert (queue._feed.waiting, queue._feed._waiters) == (0, {})
        assert await asyncio.to_thread(count_subscribers, shared_valkey) == 0

    asyncio.run(scenario())


def test_waiters_outlive_a_restart_of_the_store(valkey: RunningValkey) -> None:
    async def scenario() -> None:
        async with open_queue(valkey) as queue:
            id, revision = await accept(queue)
            waiting = asyncio.ensure_future(queue.wait_for_change(id, revision, 20))
            await settle()
            await asyncio.to_thread(valkey.kill)
            await asyncio.sleep(0.3)
            assert not waiting.done()
            await asyncio.to_thread(valkey.start)
            assert await asyncio.to_thread(cancel_elsewhere, id)
            assert await waiting
            delay = await measure_wake(queue.wait_for_change(id, revision + 1, 5), asyncio.to_thread(touch, valkey, id))
            assert delay < WOKEN_WITHIN_S

    def cancel_elsewhere(id: str) -> bool:
        with valkey.connect() as client:
            claim = Leases(client).claim(id, "w")
            return claim is not None

    asyncio.run(scenario())


def touch(server: RunningValkey, id: str) -> None:
    with server.connect() as client:
        Leases(client).beat(id, 1, {"done": 1})


def test_a_wait_that_starts_while_the_store_is_away_ends_in_time(valkey: RunningValkey) -> None:
    async def scenario() -> None:
        async with open_queue(valkey) as queue:
            id, revision = await accept(queue)
            await asyncio.to_thread(valkey.kill)
            started = time.monotonic()
            assert not await queue.wait_for_change(id, revision, 0.3)
            assert time.monotonic() - started < 2
            assert queue._feed.waiting == 0

    asyncio.run(scenario())


@asynccontextmanager
async def open_feed(server: RunningValkey) -> AsyncIterator[ChangeFeed]:
    """A feed that soon doubts a silent connection, and somebody who waits for what never comes."""
    async with server.connect_async() as client:
        feed = ChangeFeed(client, "faultline:changes", SILENCE_S)
        waiting = asyncio.ensure_future(feed.wait("job", never, 60))
        await settle()
        try:
            yield feed
        finally:
            waiting.cancel()
            await asyncio.wait([waiting])
            await feed.close()


async def never() -> bool:
    return False


def test_a_silent_connection_that_lives_is_kept(shared_valkey: RunningValkey, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with open_feed(shared_valkey):
            await asyncio.sleep(6 * SILENCE_S)
            assert await asyncio.to_thread(count_subscribers, shared_valkey) == 1

    asyncio.run(scenario())
    assert caplog.messages == []


def test_a_connection_that_has_gone_dead_is_replaced(valkey: RunningValkey, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with open_feed(valkey) as feed:
            os.kill(valkey.pid, signal.SIGSTOP)
            await asyncio.sleep(6 * SILENCE_S)
            os.kill(valkey.pid, signal.SIGCONT)
            async with valkey.connect_async() as client:
                changed = asyncio.Event()
                waiting = asyncio.ensure_future(feed.wait("other", lambda: look(changed), 20))
                await settle()
                changed.set()
                await client.publish("faultline:changes", "other")
                assert await waiting

    async def look(changed: asyncio.Event) -> bool:
        return changed.is_set()

    asyncio.run(scenario())
    assert any("subscribing again" in message for message in caplog.messages)
