"""Server-sent events, and posts that wait."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import httpx2
import redis

from tests.service import documents
from tests.service.conftest import Worker
from tests.service.eventually import eventually

Submit = Callable[..., dict[str, Any]]
LISTENERS = 50


@contextmanager
def listening(http: httpx2.Client, job: dict[str, Any], last: str | None = None) -> Iterator[Iterator[str]]:
    headers = {} if last is None else {"Last-Event-ID": last}
    with http.stream("GET", job["links"]["self"] + "/events", headers=headers) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        yield response.iter_lines()


def read_event(lines: Iterator[str]) -> dict[str, Any]:
    """Return the next event's job, whose revision is the event's id."""
    fields: dict[str, str] = {}
    for line in lines:
        if not line and "data" in fields:
            break
        name, _, value = line.partition(": ")
        if name:
            fields[name] = value
    job: dict[str, Any] = json.loads(fields["data"])
    assert (fields["event"], fields["id"]) == ("job", str(job["revision"]))
    return job


def test_every_change_is_an_event_until_the_end(http: httpx2.Client, submit: Submit, worker: Worker) -> None:
    job = submit()
    with listening(http, job) as lines:
        assert read_event(lines) == job
        claim = worker.claim(job["id"])
        assert read_event(lines)["state"] == "running"
        worker.leases.beat(job["id"], claim.attempt, {"phase": "search", "done": 1, "total": 2, "eta_s": None})
        assert read_event(lines)["progress"]["done"] == 1
        digest = worker.artifacts.put_bytes(claim.owner, documents.REPORT)
        assert worker.leases.finish(job["id"], claim.attempt, "succeeded", report_sha256=digest)
        last = read_event(lines)
        assert last["state"] == "succeeded"
        assert list(lines) == []
    with listening(http, job, last="1") as lines:
        assert read_event(lines) == last
    assert http.get(job["links"]["self"] + "/events", headers={"Last-Event-ID": str(last["revision"])}).status_code == 204


def test_who_comes_back_is_told_only_what_is_new(http: httpx2.Client, submit: Submit, worker: Worker) -> None:
    job = submit()
    with listening(http, job, last=str(job["revision"])) as lines:
        assert next(lines).startswith("retry: ")
        timer = threading.Timer(0.3, lambda: worker.claim(job["id"]))
        timer.start()
        assert read_event(lines)["state"] == "running"
        timer.join()


def test_many_listen_at_once_on_few_connections_to_the_store(
    http: httpx2.Client, submit: Submit, worker: Worker, store: redis.Redis
) -> None:
    job = submit()
    begun: list[str] = []
    states: list[str] = []

    def listen() -> None:
        with httpx2.Client(base_url=http.base_url, timeout=30) as own, listening(own, job) as lines:
            begun.append(read_event(lines)["state"])
            states.append(read_event(lines)["state"])

    threads = [threading.Thread(target=listen) for _ in range(LISTENERS)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(begun) == LISTENERS, 30)
    connected = len(store.client_list())
    http.delete(job["links"]["self"])
    for thread in threads:
        thread.join(20)
    assert states == ["cancelled"] * LISTENERS
    assert connected < LISTENERS


def test_a_post_that_waits_is_answered_with_the_end(
    http: httpx2.Client, submit: Submit, worker: Worker, store: redis.Redis
) -> None:
    submit()  # uploads the files
    other = documents.build_request(search={"seed": 7})

    def end_it() -> None:
        eventually(lambda: store.zcard("faultline:pending") == 2)
        [id] = cast("list[bytes]", store.zrange("faultline:pending", 1, 1))
        worker.succeed(id.decode())

    thread = threading.Thread(target=end_it)
    thread.start()
    response = http.post("/v1/audits", json=other, headers={"Prefer": "respond-async, wait=20"})
    thread.join()
    assert (response.status_code, response.json()["state"]) == (202, "succeeded")
    assert (response.headers["preference-applied"], response.headers["retry-after"]) == ("wait=20", "0")
    began = time.monotonic()
    waited = http.post("/v1/audits", json=documents.build_request(search={"seed": 8}), headers={"Prefer": "wait=1"})
    assert (waited.status_code, waited.json()["state"]) == (202, "queued")
    assert 0.9 < time.monotonic() - began < 5
    eventually(lambda: store.llen("faultline.cpu") >= 3)
    at_once = http.post("/v1/audits", json=other, headers={"Prefer": "respond-async"})
    assert at_once.headers["preference-applied"] == "respond-async"
