"""Long polls: what ends a wait, and that waiting costs the service nothing it does not give back."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
import redis

from schemas.job import TERMINAL_STATES
from tests.service.conftest import Worker
from tests.service.eventually import eventually

Submit = Callable[..., dict[str, Any]]


def later(act: Callable[[], object], after_s: float = 0.3) -> threading.Timer:
    timer = threading.Timer(after_s, act)
    timer.start()
    return timer


def poll(http: httpx2.Client, path: str, wait_s: int, **headers: str) -> tuple[httpx2.Response, float]:
    start = time.monotonic()
    response = http.get(path, headers={"Prefer": f"wait={wait_s}", **headers})
    return response, time.monotonic() - start


def test_the_revision_is_the_entity_tag(http: httpx2.Client, submit: Submit, worker: Worker) -> None:
    path = submit()["links"]["self"]
    first = http.get(path)
    assert first.headers["etag"] == f'"{first.json()["revision"]}"'
    held = {"If-None-Match": first.headers["etag"]}
    same = http.get(path, headers=held)
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", first.headers["etag"])
    worker.claim(path.rpartition("/")[2])
    assert http.get(path, headers=held).status_code == 200


def test_without_a_tag_the_wait_is_for_the_end(http: httpx2.Client, submit: Submit, worker: Worker) -> None:
    job = submit()
    timers = [later(lambda: worker.succeed(job["id"]))]
    response, waited_s = poll(http, job["links"]["self"], 15)
    assert response.json()["state"] == "succeeded"
    assert response.headers["preference-applied"] == "wait=15"
    assert 0.25 < waited_s < 5
    timers[0].join()


def test_changes_before_the_end_do_not_end_a_wait_for_it(http: httpx2.Client, submit: Submit, worker: Worker) -> None:
    job = submit()
    claim = worker.claim(job["id"])
    beats = [later(lambda: worker.leases.beat(claim.id, claim.attempt, {"phase": "x", "done": 1, "total": 2, "eta_s": None}))]
    response, waited_s = poll(http, job["links"]["self"], 1)
    assert response.json()["state"] == "running"
    assert response.json()["progress"]["done"] == 1
    assert waited_s >= 0.95
    beats[0].join()


def test_with_a_tag_the_wait_is_for_any_change(http: httpx2.Client, submit: Submit, worker: Worker) -> None:
    job = submit()
    tag = http.get(job["links"]["self"]).headers["etag"]
    timer = later(lambda: worker.claim(job["id"]))
    response, waited_s = poll(http, job["links"]["self"], 15, **{"If-None-Match": tag})
    assert response.json()["state"] == "running"
    assert 0.25 < waited_s < 5
    timer.join()


def test_nothing_new_in_time_is_304(http: httpx2.Client, submit: Submit) -> None:
    path = submit()["links"]["self"]
    response, waited_s = poll(http, path, 1, **{"If-None-Match": http.get(path).headers["etag"]})
    assert response.status_code == 304
    assert response.headers["preference-applied"] == "wait=1"
    assert waited_s >= 0.95


@pytest.mark.parametrize("tag", [None, '"0"', "*"])
def test_an_ended_job_is_not_waited_for(http: httpx2.Client, submit: Submit, tag: str | None) -> None:
    path = submit()["links"]["self"]
    assert http.delete(path).json()["state"] in TERMINAL_STATES
    response, waited_s = poll(http, path, 15, **({"If-None-Match": tag} if tag else {}))
    assert response.status_code == (304 if tag == "*" else 200)
    assert waited_s < 5


def test_the_wait_is_capped(http: httpx2.Client, submit: Submit) -> None:
    path = submit()["links"]["self"]
    http.delete(path)
    assert poll(http, path, 99999)[0].headers["preference-applied"] == "wait=20"
    assert "preference-applied" not in http.get(path, headers={"Prefer": "wait=soon"}).headers


def test_a_caller_that_hangs_up_is_not_waited_for(http: httpx2.Client, submit: Submit, store: redis.Redis) -> None:
    path = submit()["links"]["self"]
    with httpx2.Client(base_url=http.base_url, timeout=0.3) as impatient, pytest.raises(httpx2.ReadTimeout):
        impatient.get(path, headers={"Prefer": "wait=20"})
    eventually(lambda: http.get("/healthz").status_code == 200)


def test_many_wait_at_once_and_all_are_told(http: httpx2.Client, submit: Submit, worker: Worker) -> None:
    job = submit()

    async def wait_for_all() -> list[str]:
        limits = httpx2.Limits(max_connections=200)
        async with httpx2.AsyncClient(base_url=http.base_url, limits=limits, timeout=30) as client:
            headers = {"Prefer": "wait=20"}
            waits = [asyncio.create_task(client.get(job["links"]["self"], headers=headers)) for _ in range(200)]
            await asyncio.sleep(1.0)
            assert not any(task.done() for task in waits)
            await asyncio.to_thread(worker.succeed, job["id"])
            return [response.json()["state"] for response in await asyncio.gather(*waits)]

    assert asyncio.run(wait_for_all()) == ["succeeded"] * 200
