"""The short way of a poll answers, byte for byte, what the route answers."""

from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from schemas.errors import Fault, ModelUnreadable
from schemas.problem import build_problem
from service.observe import REQUEST_ID
from service.polls import Written, WrittenJobs
from service.presentation import AUDITS
from tests.service import documents
from tests.service.conftest import Worker
from tests.service.problems import read_problem

Submit = Callable[..., dict[str, Any]]
LONG_WAY = {"Prefer": "respond-async"}
"""A preference that changes nothing but sends the call to the route itself."""
PROBLEM = build_problem(ModelUnreadable(Fault("the file ends early"))).model_dump(mode="json")
OWN = ("x-request-id", "traceparent", "date")


def show(response: httpx2.Response) -> tuple[int, bytes, dict[str, str]]:
    assert REQUEST_ID.fullmatch(response.headers["x-request-id"])
    return response.status_code, response.content, {name: value for name, value in response.headers.items() if name not in OWN}


def check_same(http: httpx2.Client, path: str, headers: dict[str, str] | None = None) -> httpx2.Response:
    """Ask twice the short way and once the long way; return the first answer."""
    short, again, long = (http.get(path, headers=given) for given in (headers, headers, {**(headers or {}), **LONG_WAY}))
    assert show(short) == show(again) == show(long)
    return short


@pytest.mark.parametrize("end", ["queued", "running", "succeeded", "failed", "cancelled"])
def test_every_state_is_answered_alike(http: httpx2.Client, worker: Worker, submit: Submit, end: str) -> None:
    job = submit(labels={"name": "ü"})
    path = job["links"]["self"]
    assert check_same(http, path).json()["state"] == "queued"
    if end == "running":
        claim = worker.claim(job["id"])
        worker.leases.beat(job["id"], claim.attempt, {"phase": "search", "done": 1, "total": 2, "eta_s": None})
    elif end == "succeeded":
        worker.succeed(job["id"], verdict="pass")
    elif end == "failed":
        worker.fail(job["id"], PROBLEM)
    elif end == "cancelled":
        http.delete(path)
    answer = check_same(http, path)
    assert answer.json()["state"] == end
    assert check_same(http, path, {"If-None-Match": answer.headers["etag"]}).status_code == 304
    assert check_same(http, path, {"If-None-Match": '"0"'}).status_code == 200
    assert check_same(http, path, {"If-None-Match": "*"}).status_code == 304


def test_each_change_is_seen_by_the_next_poll(http: httpx2.Client, worker: Worker, submit: Submit) -> None:
    job = submit()
    claim = worker.claim(job["id"])
    for done in range(1, 6):
        worker.leases.beat(job["id"], claim.attempt, {"phase": "search", "done": done, "total": 9, "eta_s": None})
        for _ in range(3):
            assert http.get(job["links"]["self"]).json()["progress"]["done"] == done


def test_a_verdict_that_is_still_to_be_given_is_given(http: httpx2.Client, worker: Worker, submit: Submit) -> None:
    first = submit()
    worker.succeed(first["id"])
    second = submit(policy=documents.LENIENT)
    assert check_same(http, second["links"]["self"]).json()["verdict"]["outcome"] in {"pass", "warn", "fail", "inconclusive"}


def test_what_is_not_there_is_refused_alike(http: httpx2.Client, submit: Submit) -> None:
    known = submit()["id"]
    for id in (known[:-1] + ("0" if known[-1] != "0" else "1"), "x", known.upper(), f"{known}0"):
        read_problem(check_same(http, f"{AUDITS}/{id}"), 404)


def test_a_call_from_another_site_is_refused_alike(http: httpx2.Client, submit: Submit) -> None:
    path = submit()["links"]["self"]
    assert http.get(path).status_code == 200
    for headers in ({"Origin": "https://evil.example"}, {"Host": "evil.example"}):
        read_problem(check_same(http, path, headers), 403)


def test_what_was_written_is_kept_up_to_a_size_and_the_oldest_goes_first() -> None:
    kept = WrittenJobs(limit_bytes=30)
    for id in ("a", "b", "c"):
        kept.keep(id, Written("o", 1, b"0123456789", []))
    assert kept.find("a") is not None
    kept.keep("d", Written("o", 1, b"0123456789", []))
    assert [id for id in "abcd" if kept.find(id) is None] == ["b"]
    kept.keep("a", Written("o", 2, b"", []))
    kept.keep("e", Written("o", 1, b"0123456789", []))
    found = kept.find("a")
    assert found is not None
    assert found.revision == 2
    assert [id for id in "acde" if kept.find(id) is None] == []
