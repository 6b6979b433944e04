"""How often a tenant may call: over several processes, exactly, and told with the time to come back."""

import asyncio
import time
from pathlib import Path

import httpx2
import pytest
import redis

from client.api import Client
from schemas.errors import TooManyRequests
from service.limits import RateLimiter
from service.settings import Settings
from storage.buckets import TokenBuckets
from storage.connection import connect, connect_async
from tests.service import documents
from tests.service.conftest import upload
from tests.service.keyed import OTHER, Keyring, open_client, running_keyed
from tests.service.problems import read_problem

SLOW = {"requests_per_s": 0.05, "requests_burst": 3}


@pytest.fixture
def own_url(redis_url: str) -> str:
    url = f"{redis_url}?db=5"
    with connect(url) as client:
        client.flushdb()
    return url


def test_who_calls_too_often_is_told_when_to_come_back(own_url: str, tmp_path: Path) -> None:
    keyring = Keyring(own_url)
    first, second = keyring.make("first", "read"), keyring.make("second", "read")
    stranger = keyring.make("stranger", "read", tenant=OTHER)
    with running_keyed(own_url, tmp_path, **SLOW) as one, running_keyed(own_url, tmp_path, **SLOW) as two:
        answers = []
        for url, key in ((one, first), (two, second), (one, first), (two, first), (one, second)):
            with open_client(url, key) as http:
                answers.append(http.get("/v1/audits"))
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
        assert read_problem(answers[-1], 429).code == "too_many_requests"
        assert 10 <= int(answers[-1].headers["retry-after"]) <= 20
        with open_client(two, stranger) as http:
            assert http.get("/v1/audits").status_code == 200
        with open_client(one, first) as http:
            for path in ("/v1", "/healthz", "/readyz", "/openapi.json"):
                assert http.get(path).status_code != 429


def test_who_has_no_key_cannot_use_up_a_tenants_calls(own_url: str, tmp_path: Path) -> None:
    key = Keyring(own_url).make("ci", "read")
    with running_keyed(own_url, tmp_path, **SLOW) as url:
        with open_client(url, f"{key[:-1]}{'0' if key[-1] != '0' else '1'}") as http:
            assert {http.get("/v1/audits").status_code for _ in range(10)} == {401}
        with open_client(url, key) as http:
            assert http.get("/v1/audits").status_code == 200


def test_without_keys_and_without_a_limit_calls_are_not_counted(own_url: str, tmp_path: Path, http: httpx2.Client) -> None:
    key = Keyring(own_url).make("ci", "read")
    with running_keyed(own_url, tmp_path, requests_per_s=0, requests_burst=1) as url, open_client(url, key) as unlimited:
        for client in (unlimited, http):
            assert {client.get("/v1/audits").status_code for _ in range(20)} == {200}


def test_the_client_waits_for_its_turn(own_url: str, tmp_path: Path) -> None:
    key = Keyring(own_url).make("ci", "admin")
    with running_keyed(own_url, tmp_path, requests_per_s=2, requests_burst=2) as url, Client(url, key) as client:
        began = time.monotonic()
        for _ in range(4):
            assert len(client.list_keys()) == 1
        assert time.monotonic() - began > 0.9


def test_blocks_let_through_no_more_than_the_bucket_gives_and_hardly_less(own_url: str, tmp_path: Path) -> None:
    rate, burst, span_s = 200.0, 50, 1.5
    settings = Settings(redis_url=own_url, data_dir=tmp_path, auth="required", requests_per_s=rate, requests_burst=burst)

    async def call(limiter: RateLimiter, until: float) -> int:
        passed = 0
        while time.monotonic() < until:
            try:
                await limiter.admit("acme")
                passed += 1
            except TooManyRequests:
                await asyncio.sleep(0.005)
        return passed

    async def race() -> tuple[int, float]:
        async with connect_async(own_url) as client:
            limiters = [RateLimiter(TokenBuckets(client), settings) for _ in range(3)]
            began = time.monotonic()
            passed = await asyncio.gather(*(call(limiter, began + span_s) for limiter in limiters for _ in range(4)))
            return sum(passed), time.monotonic() - began

    passed, elapsed_s = asyncio.run(race())
    assert 0.75 * rate * span_s + burst <= passed <= burst + rate * elapsed_s + 1


def test_a_busy_tenant_does_not_cost_a_write_for_every_call(own_url: str, tmp_path: Path) -> None:
    settings = Settings(redis_url=own_url, data_dir=tmp_path, auth="required", requests_per_s=1000, requests_burst=1000)

    async def call() -> None:
        async with connect_async(own_url) as client:
            limiter = RateLimiter(TokenBuckets(client), settings)
            for _ in range(800):
                await limiter.admit("acme")

    with connect(own_url) as client:
        before = count_calls(client)
        asyncio.run(call())
        assert count_calls(client) - before <= 30


def count_calls(client: redis.Redis) -> int:
    """Return how many scripts the server was asked to run."""
    told = client.info("commandstats")
    return sum(int(told[name]["calls"]) for name in ("cmdstat_evalsha", "cmdstat_eval") if name in told)


def test_a_tenant_has_so_many_jobs_and_others_have_theirs(own_url: str, tmp_path: Path) -> None:
    keyring = Keyring(own_url)
    keys = [keyring.make("ci", "submit", "read"), keyring.make("other", "submit", "read", tenant=OTHER)]
    with running_keyed(own_url, tmp_path, max_live_jobs=1, tenants={OTHER: {"max_live_jobs": 2}}) as url:
        for key, most in zip(keys, (1, 2), strict=True):
            with open_client(url, key) as http:
                for content in (documents.MODEL, documents.DATA):
                    upload(http, content)
                answers = [
                    http.post("/v1/audits", json=documents.build_request(labels={"i": str(i)}, fresh=True)) for i in range(3)
                ]
                refused = http.post("/v1/audits:plan", json=documents.build_request())
                assert [answer.status_code for answer in answers] == most * [202] + (3 - most) * [429]
                assert read_problem(refused, 429).code == "quota_exceeded"
                assert refused.headers["retry-after"] == "10"
                http.delete(answers[0].json()["links"]["self"])
                assert http.post("/v1/audits:plan", json=documents.build_request()).status_code == 202


def test_what_a_tenant_is_not_given_is_as_for_all_and_without_keys_nothing_is_limited() -> None:
    fields = {"redis_url": "redis://localhost", "max_running": 7, "highest_priority": 3, "tenants": {"acme": {"max_running": 2}}}
    asked = Settings.model_validate({**fields, "auth": "required"})
    assert asked.find_limits("acme") == (3, 2, 10_000, 500.0, 1000)
    assert asked.find_limits("globex") == (3, 7, 10_000, 500.0, 1000)
    unasked = Settings.model_validate(fields)
    assert unasked.find_limits("local") == (3, 7, 0, 0.0, 1000)
    with pytest.raises(ValueError, match="speed"):
        Settings.model_validate({**fields, "tenants": {"acme": {"speed": 2}}})
