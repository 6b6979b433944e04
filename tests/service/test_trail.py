"""The audit log: no call that changes something leaves no entry, and nothing of bodies and secrets is in one."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from schemas.base import compute_sha256
from service.access import SAFE_METHODS, find_access
from service.app import find_routes
from storage.connection import connect
from tests.service import documents
from tests.service.keyed import OTHER, TENANT, Keyring, read_id, running_keyed

CAPACITY = 100
PURE = {("POST", "/v1/verdicts")}
"""Not GET, and yet nothing is changed."""


class Office:
    """A tenant whose admin calls, and what is noted of it."""

    def __init__(self, http: httpx2.Client, redis_url: str) -> None:
        self.http = http
        self.keyring = Keyring(redis_url)
        self.admin = self.keyring.make("admin", "admin")
        self.reader = self.keyring.make("reader", "read")

    def call(self, method: str, path: str, key: str | None = None, **content: Any) -> httpx2.Response:
        return self.http.request(method, path, headers={"authorization": f"Bearer {key or self.admin}"}, **content)

    def read(self, **query: Any) -> dict[str, Any]:
        response = self.http.get("/v1/audit-log", params=query, headers={"authorization": f"Bearer {self.admin}"})
        assert response.status_code == 200, response.text
        page: dict[str, Any] = response.json()
        return page


@pytest.fixture
def office(redis_url: str, tmp_path: Path) -> Iterator[Office]:
    own_url = f"{redis_url}?db=3"
    with connect(own_url) as client:
        client.flushdb()
    with (
        running_keyed(own_url, tmp_path, audit_log_entries=CAPACITY) as url,
        httpx2.Client(base_url=url, timeout=30) as http,
    ):
        yield Office(http, own_url)


def list_changing() -> list[tuple[str, str]]:
    """Return every route that changes something, by its method alone."""
    found = {(method, route.path) for route in find_routes() for method in route.methods or () if method not in SAFE_METHODS}
    return sorted(found - PURE)


def test_what_changes_something_is_what_is_not_get_but_for_what_is_named_here() -> None:
    assert {route for route in PURE if find_access(*route).changes} == set()
    assert all(find_access(method, route).changes for method, route in list_changing())


@pytest.mark.parametrize(("method", "route"), list_changing(), ids=[" ".join(row) for row in list_changing()])
def test_every_changing_call_leaves_an_entry_however_it_ends(office: Office, method: str, route: str) -> None:
    content = f"content {method} {route}".encode()
    names = {
        "sha256": compute_sha256(content),
        "audit_id": "0" * 29,
        "job_id": "0" * 29,
        "key_id": "0" * 16,
        "upload_id": "0" * 32,
    }
    path = route.format(**names)
    answers = [office.call(method, path, key, content=content) for key in (office.admin, office.reader)]
    refused, done = office.read()["items"]
    assert [entry["status"] for entry in (done, refused)] == [answer.status_code for answer in answers]
    assert [entry["key_id"] for entry in (done, refused)] == [read_id(office.admin), read_id(office.reader)]
    assert refused["status"] == 403
    for entry in (done, refused):
        assert entry["action"] == f"{method} {route}"
        assert entry["target"] == path
        assert entry["tenant"] == TENANT
        assert entry["client"] == "127.0.0.1"
        assert entry["request_id"]


def test_what_was_made_is_the_target(office: Office) -> None:
    for content in (documents.MODEL, documents.DATA):
        office.call("PUT", f"/v1/artifacts/{compute_sha256(content)}", content=content)
    audit = office.call("POST", "/v1/audits", json=documents.build_request(labels={"secret": "in the body"})).json()["id"]
    plan = office.call("POST", "/v1/audits:plan", json=documents.build_request()).json()["id"]
    key = office.call("POST", "/v1/keys", json={"label": "made", "scopes": ["read"]}).json()
    office.call("DELETE", f"/v1/audits/{audit}?note=hidden")
    entries = office.read()["items"]
    targets = [entry["target"] for entry in entries]
    assert targets[:4] == [f"/v1/audits/{audit}", f"/v1/keys/{key['info']['id']}", f"/v1/plans/{plan}", f"/v1/audits/{audit}"]
    everything = json.dumps(entries)
    for hidden in ("in the body", "hidden", key["key"].rpartition("_")[2], office.admin.rpartition("_")[2]):
        assert hidden not in everything


def test_reading_and_strangers_leave_no_entry(office: Office) -> None:
    for path in ("/v1/audits", "/v1", "/healthz", "/v1/keys", "/v1/audit-log"):
        assert office.call("GET", path).status_code == 200
    for key in ("x", f"{office.admin[:-1]}z"):
        assert office.call("POST", "/v1/audits", key).status_code == 401
    assert office.call("POST", "/v1/nowhere").status_code == 404
    assert office.call("PUT", "/v1/audits").status_code == 405
    assert office.read()["items"] == []


def test_a_key_in_the_path_is_noted_without_its_secret(office: Office) -> None:
    office.call("DELETE", f"/v1/audits/{office.reader}")
    target = office.read()["items"][0]["target"]
    assert target == f"/v1/audits/fl_{read_id(office.reader)}_***"


def test_pages_hold_every_entry_once_newest_first(office: Office) -> None:
    for i in range(7):
        office.call("DELETE", f"/v1/audits/{i}")
    found, cursor = [], None
    while True:
        page = office.read(limit=3, **({"cursor": cursor} if cursor else {}))
        found += [entry["target"][-1] for entry in page["items"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert found == list("6543210")


def test_nobody_pushes_out_or_reads_the_entries_of_another_tenant(office: Office) -> None:
    office.call("DELETE", "/v1/audits/first")
    stranger = office.keyring.make("stranger", "admin", tenant=OTHER)
    for i in range(2 * CAPACITY):
        office.call("DELETE", f"/v1/audits/{i}", stranger)
    assert [entry["target"] for entry in office.read()["items"]] == ["/v1/audits/first"]
    assert office.call("GET", f"/v1/audit-log?tenant={TENANT}", stranger).status_code == 403
    operator = office.keyring.make("operator", "admin", tenant="operator")
    theirs = office.call("GET", f"/v1/audit-log?tenant={OTHER}&limit=100", operator).json()["items"]
    assert theirs[0]["target"] == f"/v1/audits/{2 * CAPACITY - 1}"


@pytest.mark.parametrize("query", ["cursor=x", "cursor=0-0", "cursor=1-1-1", "limit=0", "limit=101", "tenant=No", "since=now"])
def test_a_bad_query_is_refused(office: Office, query: str) -> None:
    assert office.call("GET", f"/v1/audit-log?{query}").status_code == 422
