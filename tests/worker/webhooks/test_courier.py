"""Webhooks over a real store, to real receivers by TLS: told at least once, signed, and to nobody inside."""

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import trustme

from client.webhooks import read_webhook
from schemas.base import canonical_bytes, compute_sha256
from schemas.request import AuditRequest
from schemas.signing import PREFIX, derive_secret
from schemas.webhooks import Delivery
from storage.outbox import Outbox
from tests.storage.desk import OWNER, PROBLEM, REPORT, Desk, open_desk
from tests.storage.valkey import RunningValkey, running_valkey
from tests.worker.fetching.servers import PUBLIC, SITE_ADDRESS, Names, Page, Site, make_limits, running_site
from tests.worker.process.processes import eventually
from worker.webhooks.courier import AT_ONCE, Courier, choose_pause

SECRET = PREFIX + base64.b64encode(bytes(range(32))).decode()
OLD = PREFIX + base64.b64encode(bytes(range(1, 33))).decode()
NAMES = Names({PUBLIC: [SITE_ADDRESS], "inside.test": ["127.0.0.1"], "closed.test": ["127.0.0.3"]})
FILE = {"uri": "artifact:sha256:" + "0" * 64}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningValkey]:
    with running_valkey(tmp_path_factory.mktemp("store")) as running:
        yield running


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Path]]:
    authority, path = trustme.CA(), tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    with running_site(authority) as site:
        yield site, path


@pytest.fixture
def site(receiver: tuple[Site, Path]) -> Site:
    receiver[0].forget()
    receiver[0].pages["/hook"] = Page(status=204)
    return receiver[0]


@pytest.fixture
def desk(server: RunningValkey) -> Iterator[Desk]:
    with open_desk(server) as opened:
        opened.client.flushall()
        yield opened


@pytest.fixture
def outbox(desk: Desk) -> Outbox:
    return Outbox(desk.client)


@pytest.fixture
def make(receiver: tuple[Site, Path], outbox: Outbox) -> Iterator[Callable[..., Courier]]:
    couriers: list[Courier] = []

    def start(**changes: Any) -> Courier:
        given = {"webhook_secret": SECRET, "webhook_timeout_s": 2.0, "webhook_pause_s": 0.01, **changes}
        limits = make_limits(receiver[0], ca_file=receiver[1], fetch_private_networks="127.0.0.2/31", **given)
        couriers.append(Courier(outbox, limits, NAMES))
        couriers[-1].start()
        return couriers[-1]

    yield start
    for courier in couriers:
        courier.close()


def post(desk: Desk, url: str, **fields: Any) -> str:
    webhook = {"url": url, **fields.pop("webhook", {})}
    request = AuditRequest.model_validate({"model": FILE, "data": FILE, "fresh": True, "webhook": webhook, **fields})
    content = canonical_bytes(request)
    return desk.run(desk.queue.accept(request, OWNER, compute_sha256(content), None, compute_sha256(content))).record.id


def list_deliveries(desk: Desk, id: str) -> list[Delivery]:
    return [Delivery.model_validate_json(line) for line in desk.get(id).deliveries]


def test_the_end_of_an_audit_is_told_and_signed(desk: Desk, site: Site, make: Callable[..., Courier]) -> None:
    id = post(desk, site.url("/hook?token=1"), labels={"branch": "main"})
    assert desk.client.zcard("faultline:outbox") == 0
    desk.succeed(id)
    make()
    eventually(lambda: desk.get(id).told == "delivered")
    ((method, path, headers, body),) = site.requests
    assert (method, path, headers["content-type"]) == ("POST", "/hook?token=1", "application/json")
    event = read_webhook(derive_secret(SECRET, OWNER), headers, body)
    record = desk.get(id)
    assert record.ended_at is not None
    assert event["type"] == "audit.succeeded"
    assert (event["data"]["id"], event["data"]["state"], event["data"]["verdict"]) == (id, "succeeded", "pass")
    assert (event["data"]["report_sha256"], event["data"]["labels"]) == (REPORT, {"branch": "main"})
    assert event["data"]["links"] == {"self": f"/v1/audits/{id}", "report": f"/v1/audits/{id}/report"}
    assert headers["webhook-id"] == id
    assert [(one.attempt, one.status, one.error) for one in list_deliveries(desk, id)] == [(1, 204, None)]
    assert desk.client.zcard("faultline:outbox") == 0


@pytest.mark.parametrize("state", ["failed", "cancelled", "quarantined"])
def test_every_end_is_told(state: str, desk: Desk, site: Site, make: Callable[..., Courier]) -> None:
    id = post(desk, site.url("/hook"))
    if state == "failed":
        assert desk.leases.finish(id, desk.claim(id).attempt, "failed", problem=PROBLEM)
    elif state == "cancelled":
        desk.cancel(id)
    else:
        for _ in range(5):
            desk.lose_worker(id)
    make()
    eventually(lambda: desk.get(id).told == "delivered")
    event = json.loads(site.requests[0][3])
    assert event["type"] == f"audit.{state}"
    assert event["data"]["problem"]["type"].startswith("urn:faultline:problem:")


def test_an_audit_that_is_answered_with_an_earlier_report_is_told_too(
    desk: Desk, site: Site, make: Callable[..., Courier]
) -> None:
    first = post(desk, site.url("/hook"), fresh=False)
    desk.succeed(first)
    second = post(desk, site.url("/hook"), fresh=False)
    assert desk.get(second).state == "succeeded"
    make()
    eventually(lambda: desk.get(second).told == "delivered")
    assert {headers["webhook-id"] for _, _, headers, _ in site.requests} == {first, second}


def test_only_the_ends_that_are_asked_for_are_told(desk: Desk, site: Site) -> None:
    id = post(desk, site.url("/hook"), webhook={"events": ["failed", "quarantined"]})
    desk.succeed(id)
    other = post(desk, site.url("/hook"), webhook={"events": ["failed"]}, labels={"a": '"webhook":{"url":1}'})
    desk.cancel(other)
    assert desk.client.zcard("faultline:outbox") == 0


def test_a_job_without_a_webhook_is_not_told_whatever_its_labels_say(desk: Desk) -> None:
    request = AuditRequest.model_validate(
        {"model": FILE, "data": FILE, "labels": {'"webhook":{': '"webhook":{"events":["failed"]}'}}
    )
    id = desk.run(desk.queue.accept(request, OWNER, "digest", None, "body")).record.id
    desk.cancel(id)
    assert desk.get(id).state == "cancelled"
    assert desk.client.zcard("faultline:outbox") == 0


def test_a_receiver_that_fails_is_told_again_with_the_same_id(desk: Desk, site: Site, make: Callable[..., Courier]) -> None:
    site.pages["/hook"] = [Page(status=500), Page(status=302, headers={"location": "/hook"}), Page(status=200)]
    id = post(desk, site.url("/hook"))
    desk.cancel(id)
    make()
    eventually(lambda: desk.get(id).told == "delivered")
    assert [one.status for one in list_deliveries(desk, id)] == [500, 302, 200]
    assert len({headers["webhook-id"] for _, _, headers, _ in site.requests}) == 1
    assert len({body for _, _, _, body in site.requests}) == 1


def test_attempts_end(desk: Desk, site: Site, make: Callable[..., Courier]) -> None:
    site.pages["/hook"] = Page(status=500)
    gone = post(desk, site.url("/gone"))
    site.pages["/gone"] = Page(status=410)
    id = post(desk, site.url("/hook"))
    desk.cancel(id)
    desk.cancel(gone)
    make(webhook_tries=3)
    eventually(lambda: desk.get(id).told == "given_up" and desk.get(gone).told == "given_up")
    assert [one.status for one in list_deliveries(desk, id)] == [500] * 3
    assert [one.status for one in list_deliveries(desk, gone)] == [410]
    assert desk.client.zcard("faultline:outbox") == 0


@pytest.mark.parametrize("host", ["inside.test", "127.0.0.1", "localhost", "closed.test", "unknown.test"])
def test_nobody_inside_is_told_and_the_job_is_not_touched(
    host: str, desk: Desk, site: Site, make: Callable[..., Courier]
) -> None:
    id = post(desk, site.url("/hook", host))
    desk.succeed(id)
    make(webhook_tries=2)
    eventually(lambda: desk.get(id).told == "given_up")
    assert all(one.error for one in list_deliveries(desk, id))
    assert desk.get(id).state == "succeeded"
    assert site.requests == []


def test_hosts_of_webhooks_are_the_operators_word(desk: Desk, site: Site, make: Callable[..., Courier]) -> None:
    id = post(desk, site.url("/hook"))
    desk.succeed(id)
    make(webhook_tries=1, webhook_hosts="hooks.example.org", fetch_hosts="any")
    eventually(lambda: desk.get(id).told == "given_up")
    assert site.connections == 0


def test_what_a_worker_took_and_never_settled_is_told_by_another(
    desk: Desk, site: Site, outbox: Outbox, make: Callable[..., Courier]
) -> None:
    id = post(desk, site.url("/hook"))
    desk.succeed(id)
    (taken,) = outbox.take(0.3, 4)  # and this worker dies
    assert outbox.take(0.3, 4) == []
    make()
    eventually(lambda: desk.get(id).told == "delivered")
    delivery = list_deliveries(desk, id)[0]
    assert outbox.settle(taken, delivery, "given_up") is False  # it was only frozen
    assert desk.get(id).told == "delivered"


def test_the_same_attempt_is_noted_once(desk: Desk, site: Site, outbox: Outbox) -> None:
    id = post(desk, site.url("/hook"))
    desk.succeed(id)
    (taken,) = outbox.take(30, 4)
    assert taken.record.ended_at is not None
    delivery = Delivery(attempt=1, at=taken.record.ended_at, status=500, error=None, seconds=0.1)
    for _ in range(2):  # the reply may be lost and the call repeated
        assert outbox.settle(taken, delivery, "pending", 0.01)
    assert list_deliveries(desk, id) == [delivery]
    eventually(lambda: [due.attempt for due in outbox.take(30, 4)] == [2])


def test_a_record_that_was_deleted_leaves_the_outbox(desk: Desk, site: Site, outbox: Outbox) -> None:
    id = post(desk, site.url("/hook"))
    desk.succeed(id)
    desk.client.delete(f"faultline:job:{id}")
    assert outbox.take(30, 4) == []
    assert desk.client.zcard("faultline:outbox") == 0


def test_slow_receivers_hold_up_neither_each_other_nor_the_stop(desk: Desk, site: Site, make: Callable[..., Courier]) -> None:
    release = threading.Event()

    def write(_: BaseHTTPRequestHandler) -> None:
        release.wait(10)

    site.pages["/slow"] = Page(headers={"x-slow": "1"}, write=write)
    slow = [post(desk, site.url("/slow")) for _ in range(AT_ONCE - 1)]
    quick = post(desk, site.url("/hook"))
    for id in (*slow, quick):
        desk.succeed(id)
    courier = make(webhook_timeout_s=60.0)
    eventually(lambda: desk.get(quick).told == "delivered")
    began = time.monotonic()
    courier.close()
    assert time.monotonic() - began < 3
    release.set()


def test_a_dead_receiver_rests_and_others_go_on(desk: Desk, site: Site, make: Callable[..., Courier]) -> None:
    dead = [post(desk, site.url("/hook", "closed.test")) for _ in range(12)]
    for id in dead:
        desk.cancel(id)
    alive = post(desk, site.url("/hook"))
    desk.cancel(alive)
    make(webhook_pause_s=60.0)
    eventually(lambda: desk.get(alive).told == "delivered")
    eventually(lambda: all(desk.get(id).told == "pending" for id in dead))
    tried = sum(len(desk.get(id).deliveries) for id in dead)
    assert 1 <= tried <= AT_ONCE


def test_both_secrets_sign_while_the_operator_changes_them(desk: Desk, site: Site, make: Callable[..., Courier]) -> None:
    id = post(desk, site.url("/hook"))
    desk.succeed(id)
    make(webhook_secret=f"{SECRET} {OLD}")
    eventually(lambda: desk.get(id).told == "delivered")
    _, _, headers, body = site.requests[0]
    for secret in (SECRET, OLD):
        assert read_webhook(derive_secret(secret, OWNER), headers, body)["data"]["id"] == id


def test_pauses_grow_to_six_hours() -> None:
    pauses = [choose_pause(attempt, 5.0) for attempt in range(1, 12)]
    assert all(0.75 * full <= pause <= full for pause, full in zip(pauses, [5, 20, 80, 320, 1280, 5120, 20480], strict=False))
    assert pauses[-1] <= 6 * 3600
