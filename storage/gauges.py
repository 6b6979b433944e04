"""How full the store is: what metrics and readiness ask, in two round trips, without touching a job."""

import time
from dataclasses import dataclass
from typing import Any, Final

import redis.asyncio

from storage.connection import reaching_store
from storage.doorbell import name_queue
from storage.records import JOB_ID
from storage.scripts import KEY_PREFIX

PRIORITIES: Final = ("", "\x06\x163", "\x06\x166", "\x06\x169")
"""Endings of the lists that Celery's messages wait in, one for each of kombu's steps of priority."""


@dataclass(frozen=True)
class StoreGauges:
    """Counts over all owners. `oldest_pending_s` is the age of the oldest queued job, 0 without one.

    waiting, oldest_waiting_s: of the pending ones those that any worker of the device could take now, so none that waits for an
    equal one. announced_s: for each worker, how long ago it said last that its consumer is subscribed and it takes jobs.
    """

    states: dict[str, int]
    pending: int
    leases: int
    leases_expired: int
    oldest_pending_s: float
    doorbells: int
    announced_s: tuple[float, ...]
    waiting: int
    oldest_waiting_s: float


async def read_gauges(client: redis.asyncio.Redis, states: tuple[str, ...], device: str) -> StoreGauges:
    """Return the counts; `device` is the class of device whose doorbells and claimable jobs are counted.

    Raises:
        Unavailable: when the store is out of reach.
    """
    now_us = time.time_ns() // 1000
    with reaching_store():
        pipeline: Any = client.pipeline(transaction=False)
        pipeline.hgetall(f"{KEY_PREFIX}counts")
        pipeline.zcard(f"{KEY_PREFIX}pending")
        pipeline.zcard(f"{KEY_PREFIX}leases")
        pipeline.zcount(f"{KEY_PREFIX}leases", "-inf", now_us)
        pipeline.zrange(f"{KEY_PREFIX}pending", 0, 0)
        pipeline.hgetall(f"{KEY_PREFIX}announced")
        pipeline.time()
        for ending in PRIORITIES:
            pipeline.llen(f"{name_queue(device)}{ending}")
        pipeline.smembers(f"{KEY_PREFIX}lanes:{device}")
        counts, pending, leases, expired, oldest, announced, clock, *doorbells, lanes = await pipeline.execute()
        oldest_of_lanes, waiting = await _read_lanes(client, device, lanes)
    store_us = clock[0] * 1_000_000 + clock[1]
    return StoreGauges(
        states={state: int(counts.get(state.encode(), 0)) for state in states},
        pending=pending,
        leases=leases,
        leases_expired=expired,
        oldest_pending_s=_find_age(oldest[0].decode(), store_us) if oldest else 0.0,
        doorbells=sum(doorbells),
        announced_s=tuple(sorted(max(0.0, (store_us - int(said)) / 1e6) for said in announced.values())),
        waiting=waiting,
        oldest_waiting_s=max((_find_age(id, store_us) for id in oldest_of_lanes), default=0.0),
    )


async def _read_lanes(client: redis.asyncio.Redis, device: str, lanes: set[bytes]) -> tuple[list[str], int]:
    """Return the oldest job of each lane of the device, and how many there are in all of them."""
    if not lanes:
        return [], 0
    pipeline: Any = client.pipeline(transaction=False)
    for lane in lanes:
        key = f"{KEY_PREFIX}lane:{device}:{lane.decode()}"
        pipeline.zrange(key, 0, 0)
        pipeline.zcard(key)
    replies = await pipeline.execute()
    return [oldest[0].decode() for oldest in replies[::2] if oldest], sum(replies[1::2])


def _find_age(job_id: str, now_us: int) -> float:
    """Return the seconds since the job was accepted; its id begins with that moment."""
    return max(0.0, (now_us - int(job_id[:13], 16)) / 1e6) if JOB_ID.fullmatch(job_id) else 0.0
