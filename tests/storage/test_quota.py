"""How many jobs of an owner may be queued or running: every way into and out of the count."""

import pytest

from schemas.base import compute_sha256
from schemas.errors import QuotaExceeded
from storage.placement import Placement
from storage.queue import Accepted
from tests.storage.desk import OWNER, PROBLEM, REPORT, Desk, make_request

MOST = 3


def accept(desk: Desk, name: str, *, owner: str = OWNER, key: str | None = None, fresh: bool = False) -> Accepted:
    request, digest = make_request(name, fresh=fresh), compute_sha256(name.encode())
    return desk.run(
        desk.queue.accept(request, owner, digest, key, compute_sha256(name.encode()), "audit", None, Placement(max_live=MOST))
    )


def fill(desk: Desk) -> list[str]:
    return [accept(desk, f"job {i}", key=f"key {i}").record.id for i in range(MOST)]


def count(desk: Desk, owner: str = OWNER) -> int:
    return int(desk.client.scard(f"faultline:live:{owner}"))


def test_one_more_than_may_be_is_refused_and_leaves_nothing(desk: Desk) -> None:
    fill(desk)
    before = set(desk.client.scan_iter("faultline:job:*"))
    with pytest.raises(QuotaExceeded) as caught:
        accept(desk, "one more", key="one more")
    assert caught.value.retry_after_s == 10
    assert set(desk.client.scan_iter("faultline:job:*")) == before
    assert count(desk) == MOST


def test_a_repetition_and_another_owner_are_not_refused(desk: Desk) -> None:
    ids = fill(desk)
    assert accept(desk, "job 1", key="key 1").record.id == ids[1]
    assert accept(desk, "job 1", owner="globex").created


@pytest.mark.parametrize("end", ["succeeded", "failed", "cancelled", "cancelled while running"])
def test_whatever_ends_makes_room(desk: Desk, end: str) -> None:
    ids = fill(desk)
    if end == "cancelled":
        desk.run(desk.queue.cancel(ids[0], OWNER))
    else:
        claim = desk.leases.claim(ids[0], "w")
        assert claim is not None
        assert count(desk) == MOST
        if end == "succeeded":
            assert desk.leases.finish(ids[0], claim.attempt, "succeeded", report_sha256=REPORT)
        elif end == "failed":
            assert desk.leases.finish(ids[0], claim.attempt, "failed", problem=PROBLEM)
        else:
            desk.run(desk.queue.cancel(ids[0], OWNER))
            assert desk.leases.release(ids[0], claim.attempt)
    assert count(desk) == MOST - 1
    assert accept(desk, "one more").created


def test_a_job_that_goes_back_to_the_queue_keeps_its_place(desk: Desk) -> None:
    ids = fill(desk)
    claim = desk.leases.claim(ids[0], "w")
    assert claim is not None
    desk.leases.release(ids[0], claim.attempt)
    with pytest.raises(QuotaExceeded):
        accept(desk, "one more")


def test_what_is_answered_with_an_earlier_report_takes_no_place(desk: Desk) -> None:
    ids = fill(desk)
    claim = desk.leases.claim(ids[0], "w")
    assert claim is not None
    assert desk.leases.finish(ids[0], claim.attempt, "succeeded", report_sha256=REPORT)
    accept(desk, "one more")
    again = accept(desk, "job 0")
    assert again.reused
    assert count(desk) == MOST
    with pytest.raises(QuotaExceeded):
        accept(desk, "job 0", fresh=True)


def test_jobs_that_an_older_program_ended_are_found_out(desk: Desk) -> None:
    desk.client.sadd(f"faultline:live:{OWNER}", *(f"gone {i}" for i in range(MOST)))
    assert accept(desk, "first").created
    assert count(desk) == 1


def test_looking_for_them_is_done_once_a_minute(desk: Desk) -> None:
    fill(desk)
    with pytest.raises(QuotaExceeded):
        accept(desk, "one more")
    assert 50 <= desk.client.ttl(f"faultline:live_mended:{OWNER}") <= 60
    desk.client.sadd(f"faultline:live:{OWNER}", "gone")
    with pytest.raises(QuotaExceeded):
        accept(desk, "one more")
    assert count(desk) == MOST + 1


def test_another_owners_job_is_looked_up_like_one_that_is_not_there(desk: Desk) -> None:
    id = fill(desk)[0]
    assert desk.run(desk.queue.get(id, OWNER)) is not None
    assert desk.run(desk.queue.get(id, "globex")) is None
    assert desk.run(desk.queue.get("0" * 29, OWNER)) is None
