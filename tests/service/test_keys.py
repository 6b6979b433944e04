"""Keys over HTTP: the life of a key, and that nobody is given more than was meant."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from schemas.base import compute_sha256
from schemas.keys import KEY
from storage.connection import connect
from tests.service import documents
from tests.service.keyed import OTHER, TENANT, Keyring, open_client, read_id, running_keyed
from tests.service.problems import read_problem


class Desk:
    """Two API processes on one store, an admin of a tenant, and the operator."""

    def __init__(self, urls: tuple[str, str], redis_url: str) -> None:
        self.urls = urls
        self.keyring = Keyring(redis_url)
        self.admin = open_client(urls[0], self.keyring.make("admin", "admin"))
        self.operator = open_client(urls[0], self.keyring.make("operator", "admin", tenant="operator"))

    def make(self, client: httpx2.Client, **fields: Any) -> dict[str, Any]:
        response = client.post("/v1/keys", json={"label": "ci", "scopes": ["read"], **fields})
        assert response.status_code == 201, response.text
        assert response.headers["cache-control"] == "no-store"
        made: dict[str, Any] = response.json()
        assert response.headers["location"] == f"/v1/keys/{made['info']['id']}"
        return made

    def ask(self, key: str, path: str = "/v1/audits", at: int = 0, **headers: str) -> httpx2.Response:
        with open_client(self.urls[at], key) as client:
            return client.get(path, headers=headers)


@pytest.fixture(scope="module")
def urls(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    data_dir = tmp_path_factory.mktemp("data")
    own_url = f"{redis_url}?db=4"
    with running_keyed(own_url, data_dir) as one, running_keyed(own_url, data_dir) as two:
        yield one, two


@pytest.fixture
def desk(urls: tuple[str, str], redis_url: str) -> Iterator[Desk]:
    own_url = f"{redis_url}?db=4"
    with connect(own_url) as client:
        client.flushdb()
    desk = Desk(urls, own_url)
    with desk.admin, desk.operator:
        yield desk


def test_the_secret_is_told_once(desk: Desk) -> None:
    made = desk.make(desk.admin)
    secret = made["key"].rpartition("_")[2]
    assert KEY.fullmatch(made["key"])
    assert made["info"]["tenant"] == TENANT
    assert made["info"]["created_by"] != made["info"]["id"]
    for path in ("/v1/keys", f"/v1/keys/{made['info']['id']}", "/v1/audit-log"):
        told = desk.admin.get(path)
        assert told.status_code == 200
        assert secret not in told.text
    assert desk.ask(made["key"]).status_code == 200


def test_a_revoked_key_is_refused_by_every_process_with_the_next_call(desk: Desk) -> None:
    made = desk.make(desk.admin)
    assert {desk.ask(made["key"], at=at).status_code for at in (0, 1)} == {200}
    revoked = desk.admin.delete(f"/v1/keys/{made['info']['id']}")
    assert revoked.json()["state"] == "revoked"
    assert {desk.ask(made["key"], at=at).status_code for at in (0, 1)} == {401}
    assert desk.admin.delete(f"/v1/keys/{made['info']['id']}").json() == revoked.json()


def test_a_wait_ends_when_its_key_does(desk: Desk) -> None:
    for content in (documents.MODEL, documents.DATA):
        desk.admin.put(f"/v1/artifacts/{compute_sha256(content)}", content=content)
    audit = desk.admin.post("/v1/audits", json=documents.build_request()).json()["id"]
    made = desk.make(desk.admin)
    timer = threading.Timer(0.5, desk.admin.delete, [f"/v1/keys/{made['info']['id']}"])
    timer.start()
    began = time.monotonic()
    answer = desk.ask(made["key"], f"/v1/audits/{audit}", at=1, prefer="wait=15")
    timer.join()
    assert 0.4 < time.monotonic() - began < 5
    assert "ended during the wait" in read_problem(answer, 401).detail


def test_two_keys_overlap_and_a_third_is_refused(desk: Desk) -> None:
    old = desk.make(desk.admin, scopes=["read", "submit"], expires_in_s=3600)
    new = desk.admin.post(f"/v1/keys/{old['info']['id']}/rotate", json={"overlap_s": 600})
    assert new.status_code == 201
    assert {name: new.json()["info"][name] for name in ("tenant", "label", "scopes")} == {
        "tenant": TENANT,
        "label": "ci",
        "scopes": ["read", "submit"],
    }
    assert {desk.ask(key).status_code for key in (old["key"], new.json()["key"])} == {200}
    read_problem(desk.admin.post("/v1/keys", json={"label": "ci", "scopes": ["read"]}), 409)
    read_problem(desk.admin.post(f"/v1/keys/{new.json()['info']['id']}/rotate", json={}), 409)


@pytest.mark.parametrize(
    "body",
    [
        *({"overlap_s": 0, "scopes": ["admin"]}, {"tenant": "operator"}, {"label": "x"}, {"overlap_s": -1}, {"expires_in_s": 1}),
        *([], "x", {"overlap_s": 10**9}),
    ],
)
def test_a_successor_cannot_be_asked_for_more(desk: Desk, body: Any) -> None:
    made = desk.make(desk.admin)
    read_problem(desk.admin.post(f"/v1/keys/{made['info']['id']}/rotate", json=body), 422)


@pytest.mark.parametrize("scope", ["read", "submit"])
def test_only_an_admin_makes_and_rotates_keys(desk: Desk, scope: str) -> None:
    made = desk.make(desk.admin, scopes=[scope])
    own = f"/v1/keys/{made['info']['id']}"
    with open_client(desk.urls[0], made["key"]) as client:
        for method, path in (("POST", "/v1/keys"), ("POST", f"{own}/rotate"), ("DELETE", own), ("GET", own)):
            problem = read_problem(client.request(method, path, json={"label": "x", "scopes": ["admin"]}), 403)
            assert problem.errors[0].expected == "admin"


def test_an_admin_manages_its_own_tenant_and_sees_no_other(desk: Desk) -> None:
    theirs = desk.make(desk.operator, tenant=OTHER, scopes=["admin"])
    path = f"/v1/keys/{theirs['info']['id']}"
    for response in (desk.admin.get(path), desk.admin.delete(path), desk.admin.post(f"{path}/rotate", json={})):
        nowhere = read_problem(response, 404)
        assert nowhere.detail == "there is no such key"
    for tenant in (OTHER, "operator", "nobody"):
        refusal = read_problem(desk.admin.post("/v1/keys", json={"label": "x", "scopes": ["read"], "tenant": tenant}), 403)
        assert refusal.errors[0].expected == TENANT
        assert desk.admin.get(f"/v1/keys?tenant={tenant}").status_code == 403
    assert {info["tenant"] for info in desk.admin.get("/v1/keys").json()["items"]} == {TENANT}
    assert {info["tenant"] for info in desk.operator.get("/v1/keys").json()["items"]} == {TENANT, OTHER, "operator"}
    assert {info["tenant"] for info in desk.operator.get(f"/v1/keys?tenant={OTHER}").json()["items"]} == {OTHER}


def test_a_reader_of_the_operator_is_no_operator(desk: Desk) -> None:
    made = desk.make(desk.operator, scopes=["read", "submit"])
    assert made["info"]["tenant"] == "operator"
    assert desk.ask(made["key"], "/v1/keys").status_code == 403


@pytest.mark.parametrize(
    "fields",
    [
        *({"label": ""}, {"label": "x" * 65}, {"label": "a:b"}, {"label": "a\nb"}, {"label": "ключ"}, {"scopes": []}),
        *({"scopes": ["root"]}, {"scopes": ["read", "read"]}, {"scopes": "read"}, {"tenant": "A"}, {"tenant": "a:b"}),
        *({"tenant": "../x"}, {"expires_in_s": 0}, {"expires_in_s": 1.5}, {"key": "fl_x_y"}, {"created_by": "me"}),
    ],
)
def test_a_malformed_key_is_not_made(desk: Desk, fields: dict[str, Any]) -> None:
    read_problem(desk.operator.post("/v1/keys", json={"label": "ci", "scopes": ["read"], **fields}), 422)


def test_an_admin_may_revoke_itself(desk: Desk) -> None:
    key = desk.make(desk.admin, scopes=["admin"])
    with open_client(desk.urls[1], key["key"]) as client:
        assert client.delete(f"/v1/keys/{key['info']['id']}").status_code == 200
        assert client.get("/v1/keys").status_code == 401
    assert read_id(key["key"]) in desk.admin.get("/v1/keys").text


def test_pages_lead_on(desk: Desk) -> None:
    for i in range(5):
        desk.make(desk.admin, label=f"n{i}")
    first = desk.admin.get("/v1/keys?limit=4").json()
    second = desk.admin.get(f"/v1/keys?limit=4&cursor={first['next']}").json()
    ids = [info["id"] for info in (*first["items"], *second["items"])]
    assert len(ids) == len(set(ids)) == 6
    assert second["next"] is None
