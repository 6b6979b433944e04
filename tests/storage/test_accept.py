"""Accepting: one job per key, reports reused, nothing shared between owners."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from schemas.base import canonical_bytes, compute_sha256
from schemas.errors import IdempotencyMismatch
from storage.records import JOB_ID
from tests.storage.desk import OWNER, REPORT, Desk, make_request

DAY_MS = 24 * 3600 * 1000


def test_a_new_job_is_queued_with_everything_the_caller_said(desk: Desk) -> None:
    labels = {"branch": "main", "größe": "ä"}
    accepted = desk.submit("a", labels=labels)
    record = accepted.record
    assert (accepted.created, accepted.reused) == (True, False)
    assert (record.state, record.attempt, record.cancel, record.owner) == ("queued", 0, False, OWNER)
    assert record.request == canonical_bytes(make_request("a", labels=labels))
    assert record.labels == labels
    assert (record.progress, record.report_sha256, record.problem, record.verdict) == (None, None, None, None)
    assert (record.started_at, record.ended_at) == (None, None)
    assert abs(datetime.now(UTC) - record.created_at) < timedelta(seconds=5)
    assert desk.get(record.id) == record


def test_ids_are_url_safe_and_sort_by_time_even_if_the_clock_is_set_back(desk: Desk) -> None:
    ids = [desk.accept() for _ in range(5)]
    ahead = int(ids[-1][:13], 16) + 3600 * 10**6
    desk.client.set("faultline:clock", ahead)
    ids += [desk.accept() for _ in range(5)]
    assert all(JOB_ID.fullmatch(id) for id in ids)
    assert ids == sorted(set(ids))
    assert int(ids[-1][:13], 16) == ahead + 5


def test_the_same_key_and_body_give_the_same_job(desk: Desk) -> None:
    first = desk.submit("a", key="k")
    again = desk.submit("a", key="k")
    assert first.created
    assert not again.created
    assert again.record == first.record
    assert desk.client.zcard("faultline:pending") == 1


def test_a_key_lives_for_a_day(desk: Desk) -> None:
    desk.submit("a", key="k")
    (key,) = desk.client.keys("faultline:idempotency:*")
    assert DAY_MS - 10_000 < int(desk.client.pttl(key)) <= DAY_MS


def test_the_same_key_with_another_body_is_refused_and_makes_nothing(desk: Desk) -> None:
    desk.submit("a", key="k")
    with pytest.raises(IdempotencyMismatch) as raised:
        desk.submit("b", key="k")
    assert raised.value.faults[0].where == "header: Idempotency-Key"
    assert desk.client.zcard("faultline:pending") == 1


@pytest.mark.parametrize(("owner", "key"), [("other", "k"), ("local", "k2")])
def test_keys_are_an_owners_own(desk: Desk, owner: str, key: str) -> None:
    first = desk.submit("a", owner="local", key="k")
    assert desk.submit("b", owner=owner, key=key).record.id != first.record.id


def test_many_at_once_with_one_key_make_one_job(desk: Desk) -> None:
    request = make_request("a")
    digest = compute_sha256(canonical_bytes(request))

    async def race() -> list[tuple[str, bool]]:
        calls = (desk.queue.accept(request, OWNER, digest, "k", digest) for _ in range(40))
        return [(accepted.record.id, accepted.created) for accepted in await asyncio.gather(*calls)]

    answers = desk.run(race())
    assert len({id for id, _ in answers}) == 1
    assert [created for _, created in answers].count(True) == 1


def test_without_a_key_equal_requests_are_jobs_of_their_own(desk: Desk) -> None:
    assert desk.accept("a") != desk.accept("a")


def test_a_finished_report_answers_an_equal_request_at_once(desk: Desk) -> None:
    desk.succeed(desk.accept("a"))
    accepted = desk.submit("a")
    assert (accepted.created, accepted.reused) == (True, True)
    assert (accepted.record.state, accepted.record.report_sha256) == ("succeeded", REPORT)
    assert accepted.record.verdict is None
    assert accepted.record.ended_at is not None
    assert desk.find_sets(accepted.record.id) == set()
    assert desk.leases.claim(accepted.record.id, "w") is None


def test_the_verdict_of_a_reused_report_is_noted_once(desk: Desk) -> None:
    desk.succeed(desk.accept("a"))
    record = desk.submit("a").record
    noted = desk.set_verdict(record.id, "fail")
    assert noted is not None
    assert (noted.verdict, noted.revision) == ("fail", record.revision + 1)
    assert desk.set_verdict(record.id, "fail") == noted


@pytest.mark.parametrize("fresh", [True, False])
def test_fresh_or_another_owner_or_another_audit_runs_again(desk: Desk, fresh: bool) -> None:
    desk.succeed(desk.accept("a"))
    accepted = [desk.submit("a", fresh=True)] if fresh else [desk.submit("a", owner="other"), desk.submit("b")]
    assert {(each.record.state, each.reused) for each in accepted} == {("queued", False)}


def test_a_failed_audit_answers_nobody_else(desk: Desk) -> None:
    id = desk.accept("a")
    assert desk.leases.finish(id, desk.claim(id).attempt, "failed", problem={"title": "no"})
    assert desk.submit("a").record.state == "queued"


def test_an_owner_sees_no_other_owners_job(desk: Desk) -> None:
    id = desk.accept()
    assert desk.run(desk.queue.get(id, "other")) is None
    assert desk.cancel(id, "other") is None
    assert desk.run(desk.queue.set_verdict(id, "other", "pass")) is None
    assert desk.run(desk.queue.get("no such id", OWNER)) is None
    assert desk.get(id).state == "queued"


def test_a_record_of_a_program_that_knew_one_kind_is_an_audit(desk: Desk) -> None:
    id = desk.accept()
    desk.client.hdel(f"faultline:job:{id}", "kind")
    assert desk.get(id).kind == "audit"
    claim = desk.leases.claim(id, "w")
    assert claim is not None
    assert claim.kind == "audit"
    desk.leases.finish(id, claim.attempt, "succeeded", report_sha256=REPORT)
    records, _ = desk.run(desk.queue.page(OWNER, 10, None, "succeeded"))
    assert [record.id for record in records] == [id]
