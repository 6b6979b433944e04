"""Buckets of tokens: against their closed form, and never more than they hold, whoever asks."""

import asyncio
import math
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from storage.buckets import TokenBuckets
from tests.storage.desk import Desk

Run = Callable[[Callable[[TokenBuckets], Coroutine[Any, Any, Any]]], Any]


@pytest.fixture
def run(desk: Desk) -> Run:
    def call(function: Callable[[TokenBuckets], Coroutine[Any, Any, Any]]) -> Any:
        async def inside() -> Any:
            async with desk.server.connect_async() as client:
                return await function(TokenBuckets(client))

        return asyncio.run(inside())

    return call


def put(desk: Desk, tokens: float, ago_s: float) -> None:
    """Leave a bucket as it was so many seconds ago, on the server's clock."""
    seconds, microseconds = desk.client.time()
    at = seconds * 1_000_000 + microseconds - round(ago_s * 1_000_000)
    desk.client.hset("faultline:tokens:acme", mapping={"tokens": tokens, "at": at})


def test_a_bucket_that_nobody_touched_is_full(run: Run) -> None:
    assert run(lambda buckets: buckets.take("acme", 0.001, 5, 9)) == (5, 0.0)


@pytest.mark.parametrize("seed", range(20))
def test_what_is_there_is_what_was_left_and_what_ran_in(run: Run, desk: Desk, seed: int) -> None:
    chance = random.Random(seed)
    rate, burst, wanted = 10 ** chance.uniform(-3, 0), chance.randint(1, 40), chance.randint(1, 50)
    left, ago_s = chance.uniform(0, burst), chance.uniform(0, 100)
    put(desk, left, ago_s)
    granted, wait_s = run(lambda buckets: buckets.take("acme", rate, burst, wanted))
    filled = min(burst, left + ago_s * rate)
    if abs(filled - round(filled)) < 0.05:  # the call itself takes some time, which may bring the next token
        assert granted in {min(wanted, math.floor(filled + at)) for at in (-0.05, 0.05)}
    else:
        assert granted == min(wanted, math.floor(filled))
        assert (granted > 0) == (wait_s == 0)
        if granted == 0:
            assert wait_s == pytest.approx((1 - filled) / rate, rel=0.1, abs=0.2)


def test_a_clock_that_was_set_back_gives_nothing_and_takes_nothing(run: Run, desk: Desk) -> None:
    put(desk, 3, -3600)
    assert run(lambda buckets: buckets.take("acme", 0.001, 10, 10)) == (3, 0.0)


def test_tenants_have_buckets_of_their_own(run: Run) -> None:
    assert run(lambda buckets: buckets.take("acme", 0.001, 1, 1))[0] == 1
    assert run(lambda buckets: buckets.take("acme", 0.001, 1, 1))[0] == 0
    assert run(lambda buckets: buckets.take("globex", 0.001, 1, 1))[0] == 1


def test_many_who_ask_at_once_get_no_more_than_there_is(run: Run) -> None:
    rate, burst = 50.0, 20

    async def drain(buckets: TokenBuckets) -> tuple[int, float]:
        began, total = time.monotonic(), 0
        while time.monotonic() - began < 0.5:
            grants = await asyncio.gather(*(buckets.take("acme", rate, burst, 3) for _ in range(8)))
            total += sum(granted for granted, _ in grants)
        return total, time.monotonic() - began

    total, elapsed_s = run(drain)
    assert burst + 0.8 * rate * 0.5 <= total <= burst + rate * (elapsed_s + 0.05)


def test_a_bucket_is_forgotten_when_it_is_full_again(run: Run, desk: Desk) -> None:
    run(lambda buckets: buckets.take("acme", 10, 100, 1))
    assert 10_000 <= desk.client.pttl("faultline:tokens:acme") <= 11_000
