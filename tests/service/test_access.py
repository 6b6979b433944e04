"""Who may call what: every route with every kind of key, over the real app. A route without its row fails."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from schemas.base import compute_sha256
from service.access import find_access
from service.app import find_routes
from service.openapi import examples
from storage.artifacts import FileArtifactStore
from storage.connection import connect
from storage.leases import Leases
from tests.service import documents
from tests.service.conftest import Worker
from tests.service.keyed import OTHER, TENANT, Keyring, read_id, running_keyed
from tests.service.problems import read_problem

CALLERS = (
    "nobody",
    "unknown",
    "forged",
    "malformed",
    "expired",
    "revoked",
    "read",
    "submit",
    "both",
    "admin",
    "other",
    "operator",
)
# `both` has read and submit, `other` is an admin of another tenant. What is the tenant's own has ended: its audit cannot be
# cancelled any more, and its key has no successor (409).
TABLE = """
GET  /v1                           200 200 200 200 200 200  200 200 200 200  200 200
GET  /healthz                      200 200 200 200 200 200  200 200 200 200  200 200
GET  /readyz                       200 200 200 200 200 200  200 200 200 200  200 200
GET  /openapi.json                 200 200 200 200 200 200  200 200 200 200  200 200
GET  /docs                         200 200 200 200 200 200  200 200 200 200  200 200
GET  /docs/docs.css                200 200 200 200 200 200  200 200 200 200  200 200
GET  /docs/docs.js                 200 200 200 200 200 200  200 200 200 200  200 200
GET  /metrics                      401 401 401 401 401 401  200 403 200 200  200 200
PUT  /v1/artifacts/{sha256}        401 401 401 401 401 401  403 201 201 201  201 201
HEAD /v1/artifacts/{sha256}        401 401 401 401 401 401  200 403 200 200  404 404
GET  /v1/artifacts/{sha256}        401 401 401 401 401 401  200 403 200 200  404 404
DELETE /v1/artifacts/{sha256}      401 401 401 401 401 401  403 409 409 409  404 404
POST /v1/uploads                   401 401 401 401 401 401  403 201 201 201  201 201
GET  /v1/uploads/{upload_id}       401 401 401 401 401 401  403 200 200 200  404 404
PATCH /v1/uploads/{upload_id}      401 401 401 401 401 401  403 204 204 204  404 404
DELETE /v1/uploads/{upload_id}     401 401 401 401 401 401  403 204 204 204  404 404
POST /v1/audits                    401 401 401 401 401 401  403 202 202 202  422 422
GET  /v1/audits                    401 401 401 401 401 401  200 403 200 200  200 200
GET  /v1/audits/{audit_id}         401 401 401 401 401 401  200 403 200 200  404 404
DELETE /v1/audits/{audit_id}       401 401 401 401 401 401  403 409 409 409  404 404
GET  /v1/audits/{audit_id}/report  401 401 401 401 401 401  200 403 200 200  404 404
DELETE /v1/audits/{audit_id}/report 401 401 401 401 401 401  403 409 409 409  404 404
GET  /v1/audits/{audit_id}/verdict 401 401 401 401 401 401  200 403 200 200  404 404
GET  /v1/audits/{audit_id}/events  401 401 401 401 401 401  200 403 200 200  404 404
GET  /v1/audits/{audit_id}/deliveries 401 401 401 401 401 401  200 403 200 200  404 404
GET  /v1/webhook-secret            401 401 401 401 401 401  403 403 403 404  404 404
POST /v1/audits:plan               401 401 401 401 401 401  403 202 202 202  422 422
GET  /v1/plans/{job_id}            401 401 401 401 401 401  202 403 202 202  404 404
DELETE /v1/plans/{job_id}          401 401 401 401 401 401  403 409 409 409  404 404
POST /v1/models:inspect            401 401 401 401 401 401  403 202 202 202  422 422
GET  /v1/inspections/{job_id}      401 401 401 401 401 401  202 403 202 202  404 404
DELETE /v1/inspections/{job_id}    401 401 401 401 401 401  403 409 409 409  404 404
POST /v1/verdicts                  401 401 401 401 401 401  200 403 200 200  422 422
POST /v1/keys                      401 401 401 401 401 401  403 403 403 201  403 201
GET  /v1/keys                      401 401 401 401 401 401  403 403 403 200  200 200
GET  /v1/keys/{key_id}             401 401 401 401 401 401  403 403 403 200  404 200
POST /v1/keys/{key_id}/rotate      401 401 401 401 401 401  403 403 403 409  404 409
DELETE /v1/keys/{key_id}           401 401 401 401 401 401  403 403 403 200  404 200
GET  /v1/audit-log                 401 401 401 401 401 401  403 403 403 200  200 200
"""
ROWS = {(row[0], row[1]): tuple(map(int, row[2:])) for row in (line.split() for line in TABLE.strip().splitlines())}
CELLS = [(*route, caller, status) for route, statuses in ROWS.items() for caller, status in zip(CALLERS, statuses, strict=True)]


class Scene:
    """A tenant's artifacts, audit, plan and inspection, and everybody's keys."""

    def __init__(self, http: httpx2.Client, redis_url: str, data_dir: Path) -> None:
        self.http = http
        keyring = Keyring(redis_url)
        keys: dict[str, str | None] = {"nobody": None, "unknown": f"fl_{'7' * 16}_{'0' * 64}", "malformed": "letmein"}
        keys |= {"expired": keyring.make_expired(), "revoked": keyring.make_revoked()}
        keys |= {"read": keyring.make("read", "read"), "submit": keyring.make("submit", "submit")}
        keys |= {"both": keyring.make("both", "read", "submit"), "admin": keyring.make("admin", "admin")}
        keys |= {
            "other": keyring.make("other", "admin", tenant=OTHER),
            "operator": keyring.make("first", "admin", tenant="operator"),
        }
        keys["forged"] = f"{str(keys['admin'])[:-1]}{'0' if str(keys['admin'])[-1] != '0' else '1'}"
        self.keys = keys
        inspected = {"model": documents.build_request()["model"]}
        with connect(redis_url) as store:
            worker = Worker(Leases(store), FileArtifactStore(data_dir / "artifacts"))
            for content in (documents.MODEL, documents.DATA):
                http.put(f"/v1/artifacts/{compute_sha256(content)}", content=content, headers=self.show_key("admin"))
            audit = self._post("/v1/audits", documents.build_request(policy=examples.POLICY))
            worker.leases.announce("w", 300)
            worker.succeed(audit, verdict="fail")
        plan = self._post("/v1/audits:plan", documents.build_request())
        inspection = self._post("/v1/models:inspect", inspected)
        self.places = {"sha256": compute_sha256(documents.MODEL), "audit_id": audit, "key_id": read_id(str(keys["revoked"]))}
        self.bodies: dict[str, Any] = {
            "/v1/audits": documents.build_request(policy=examples.POLICY),
            "/v1/audits:plan": documents.build_request(),
            "/v1/models:inspect": inspected,
            "/v1/keys": {"label": "new", "scopes": ["read"], "tenant": TENANT},
            "/v1/keys/{key_id}/rotate": {},
            "/v1/verdicts": {"policy": examples.POLICY, "audit_id": audit},
        }
        self.jobs = {"/v1/plans/{job_id}": plan, "/v1/inspections/{job_id}": inspection}

    def _post(self, path: str, body: dict[str, Any]) -> str:
        return str(self.http.post(path, json=body, headers=self.show_key("admin")).json()["id"])

    def call(self, method: str, route: str, caller: str) -> httpx2.Response:
        places, content = {**self.places, "job_id": self.jobs.get(route)}, dict[str, Any]()
        if route in self.bodies and method == "POST":
            content = {"json": self.bodies[route]}
        elif method == "PUT":
            content = {"content": f"sent by {caller}".encode()}
            places["sha256"] = compute_sha256(content["content"])
        elif (method, route) == ("DELETE", "/v1/audits/{audit_id}/report"):
            places["audit_id"] = self._post("/v1/audits", documents.build_request(fresh=True))
        elif route.startswith("/v1/uploads"):
            begun = self.http.post("/v1/uploads", headers={**self.show_key("admin"), "upload-length": "9"})
            places["upload_id"] = begun.json()["id"]
        headers = {"upload-length": "9", "upload-offset": "0", "content-type": "application/partial-upload"}
        shown = self.show_key(caller) | (headers if route.startswith("/v1/uploads") else {})
        return self.http.request(method, route.format(**places), headers=shown, **content)

    def show_key(self, caller: str) -> dict[str, str]:
        key = self.keys[caller]
        return {} if key is None else {"authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def scene(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """In a database of its own, which no other test empties."""
    data_dir, own_url = tmp_path_factory.mktemp("keyed"), f"{redis_url}?db=1"
    with running_keyed(own_url, data_dir) as url, httpx2.Client(base_url=url, timeout=30) as http:
        yield Scene(http, own_url, data_dir)


def test_every_route_has_its_row() -> None:
    assert ROWS.keys() == {(method, route.path) for route in find_routes() for method in route.methods or ()}


@pytest.mark.parametrize(("method", "route", "caller", "status"), CELLS, ids=[" ".join(map(str, cell)) for cell in CELLS])
def test_each_caller_gets_its_answer(scene: Scene, method: str, route: str, caller: str, status: int) -> None:
    response = scene.call(method, route, caller)
    assert response.status_code == status, response.text
    assert (response.headers.get("www-authenticate") == 'Bearer realm="faultline"') == (status == 401)
    if status >= 400 and method != "HEAD":
        read_problem(response, status)
    if (key := scene.keys[caller]) is not None:
        assert key.rpartition("_")[2] not in response.text + str(response.headers)


def test_what_is_not_there_is_answered_as_what_is_anothers(scene: Scene) -> None:
    there = scene.call("GET", "/v1/audits/{audit_id}", "other")
    other_id = scene.places["audit_id"][:-1] + ("0" if scene.places["audit_id"][-1] != "0" else "1")
    nowhere = scene.http.get(f"/v1/audits/{other_id}", headers=scene.show_key("other"))
    assert there.text.replace(scene.places["audit_id"], other_id) == nowhere.text
    assert there.headers.keys() == nowhere.headers.keys()


def test_a_route_that_nobody_thought_of_needs_a_key() -> None:
    assert find_access("GET", "/v1/new") == ("read", False)
    assert find_access("PATCH", "/v1/new") == ("submit", True)
