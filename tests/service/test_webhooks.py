import base64
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from schemas.base import compute_sha256
from schemas.signing import PREFIX, derive_secret
from schemas.webhooks import Delivery
from service.identity import LOCAL_OWNER
from service.settings import BadSettings, Settings, load_settings
from storage.connection import connect
from storage.outbox import Outbox
from tests.service import documents
from tests.service.conftest import Worker, upload
from tests.service.problems import read_problem
from tests.service.running import running_app

SECRET = PREFIX + base64.b64encode(bytes(range(32))).decode()
URL = "https://ci.example.org/hook"


@pytest.fixture
def signing(redis_url: str, data_dir: Path, store: object) -> Iterator[httpx2.Client]:
    settings = Settings.model_validate(
        {"redis_url": redis_url, "data_dir": data_dir, "webhook_secret": SECRET, "webhook_hosts": "*.example.org"}
    )
    with running_app(settings) as url, httpx2.Client(base_url=url, timeout=30) as client:
        for content in (documents.MODEL, documents.DATA):
            upload(client, content)
        yield client


def test_a_webhook_is_refused_where_there_is_no_secret(http: httpx2.Client) -> None:
    for content in (documents.MODEL, documents.DATA):
        upload(http, content)
    problem = read_problem(http.post("/v1/audits", json=documents.build_request(webhook={"url": URL})), 422)
    assert [(error.where, error.what) for error in problem.errors] == [("/webhook/url", "webhooks are not enabled here")]
    read_problem(http.get("/v1/webhook-secret"), 404)


@pytest.mark.parametrize(
    ("webhook", "where"),
    [
        ({"url": "http://ci.example.org/"}, "/webhook/url"),
        ({"url": "https://10.0.0.1/"}, "/webhook/url"),
        ({"url": "https://ci.example.org:22/"}, "/webhook/url"),
        ({"url": "https://elsewhere.org/"}, "/webhook/url"),
        ({"url": "file:///etc/passwd"}, "/webhook/url"),
        ({"url": "https://me@ci.example.org/"}, "/webhook/url"),
        ({"url": URL, "events": []}, "/webhook/events"),
        ({"url": URL, "events": ["started"]}, "/webhook/events/0"),
        ({"url": URL, "secret": "mine"}, "/webhook/secret"),
        ({}, "/webhook/url"),
    ],
)
def test_a_webhook_that_cannot_be_told_is_refused(webhook: dict[str, object], where: str, signing: httpx2.Client) -> None:
    problem = read_problem(signing.post("/v1/audits", json=documents.build_request(webhook=webhook)), 422)
    assert [error.where for error in problem.errors] == [where]


def test_the_log_of_a_webhook_can_be_read(signing: httpx2.Client, worker: Worker, redis_url: str) -> None:
    request = documents.build_request(webhook={"url": URL + "?token=secret", "events": ["succeeded"]})
    job = signing.post("/v1/audits", json=request).json()
    path = f"/v1/audits/{job['id']}/deliveries"
    told = signing.get(path).json()
    assert told == {
        "schema_version": 1, "url": URL + "?...", "events": ["succeeded"], "state": "waiting", "next_at": None, "attempts": [],
    }  # fmt: skip
    worker.succeed(job["id"])
    told = signing.get(path).json()
    assert (told["state"], told["attempts"]) == ("pending", [])
    assert told["next_at"] is not None
    with connect(redis_url) as client:
        outbox = Outbox(client)
        (due,) = outbox.take(30, 4)
        assert due.record.ended_at is not None
        outbox.settle(due, Delivery(attempt=1, at=due.record.ended_at, status=204, error=None, seconds=0.1), "delivered")
    told = signing.get(path).json()
    assert (told["state"], told["next_at"], [one["status"] for one in told["attempts"]]) == ("delivered", None, [204])
    revision = signing.get(f"/v1/audits/{job['id']}").json()["revision"]
    assert revision == signing.get(f"/v1/audits/{job['id']}").json()["revision"]


def test_an_audit_without_a_webhook_has_an_empty_log(signing: httpx2.Client) -> None:
    job = signing.post("/v1/audits", json=documents.build_request()).json()
    assert signing.get(f"/v1/audits/{job['id']}/deliveries").json()["state"] == "none"
    read_problem(signing.get(f"/v1/audits/{'0' * 29}/deliveries"), 404)


def test_a_webhook_makes_no_other_audit(signing: httpx2.Client) -> None:
    plain = signing.post("/v1/audits", json=documents.build_request()).json()
    hooked = signing.post("/v1/audits", json=documents.build_request(webhook={"url": URL})).json()
    assert plain["request_digest"] == hooked["request_digest"]
    assert plain["id"] != hooked["id"]


def test_a_tenant_is_told_its_own_secret(signing: httpx2.Client) -> None:
    assert signing.get("/v1/webhook-secret").json() == {"schema_version": 1, "secrets": [derive_secret(SECRET, LOCAL_OWNER)]}


def test_a_secret_is_never_shown_when_it_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://localhost")
    monkeypatch.setenv("FAULTLINE_WEBHOOK_SECRET", "letmein")
    with pytest.raises(BadSettings) as refused:
        load_settings()
    assert "FAULTLINE_WEBHOOK_SECRET" in str(refused.value)
    assert "letmein" not in str(refused.value)
    assert SECRET not in repr(Settings.model_validate({"redis_url": "redis://x", "webhook_secret": SECRET}))
    assert compute_sha256(b"") not in SECRET
