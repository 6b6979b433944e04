"""A call that was carried out and whose answer was lost is repeated by the client, and nothing happens twice."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.errors import Fault
from tests.storage.desk import OWNER, PROBLEM, REPORT, Desk, open_desk
from tests.storage.lossy import LossyStore, losing_replies
from tests.storage.valkey import RunningValkey


@pytest.fixture
def lossy(shared_valkey: RunningValkey, tmp_path: Path) -> Iterator[LossyStore]:
    with losing_replies(shared_valkey, tmp_path) as store:
        yield store


@pytest.fixture
def far(desk: Desk, lossy: LossyStore) -> Iterator[Desk]:
    """The same store seen through the lossy proxy."""
    with open_desk(lossy) as opened:
        yield opened


@pytest.mark.parametrize("key", [None, "k"])
def test_one_accept_makes_one_job(desk: Desk, far: Desk, lossy: LossyStore, key: str | None) -> None:
    lossy.lose_next_reply()
    accepted = far.submit("a", key=key)
    assert (lossy.lost, accepted.created) == (1, True)
    assert desk.list_ids(10) == ([accepted.record.id], None)


def test_one_claim_is_one_attempt(desk: Desk, far: Desk, lossy: LossyStore) -> None:
    id = desk.accept()
    lossy.lose_next_reply()
    claim = far.claim(id)
    assert (lossy.lost, claim.attempt) == (1, 1)
    assert desk.leases.claim(id, "w") is None
    assert desk.leases.beat(id, 1) == "ok"


@pytest.mark.parametrize("end", ["succeeded", "failed"])
def test_one_finish_is_one_report(desk: Desk, far: Desk, lossy: LossyStore, end: str) -> None:
    id = desk.accept()
    attempt = desk.claim(id).attempt
    lossy.lose_next_reply()
    content = {"report_sha256": REPORT} if end == "succeeded" else {"problem": PROBLEM}
    assert far.leases.finish(id, attempt, end, **content)  # type: ignore[arg-type]
    assert (lossy.lost, desk.get(id).revision) == (1, 3)


def test_one_release_costs_nothing_and_one_with_a_fault_one_try(desk: Desk, far: Desk, lossy: LossyStore) -> None:
    id = desk.accept()
    for lost, fault in enumerate([None, Fault("killed")], start=1):
        attempt = desk.claim(id).attempt
        lossy.lose_next_reply()
        assert far.leases.release(id, attempt, fault)
        assert (lossy.lost, desk.get(id).state) == (lost, "queued")
        assert desk.client.hget(f"faultline:job:{id}", "tries") == str(lost - 1).encode()


def test_a_beat_is_a_beat(desk: Desk, far: Desk, lossy: LossyStore) -> None:
    id = desk.accept()
    attempt = desk.claim(id).attempt
    revision = desk.get(id).revision
    lossy.lose_next_reply()
    assert far.leases.beat(id, attempt, {"done": 1}) == "ok"
    assert (lossy.lost, desk.get(id).revision) == (1, revision + 1)


@pytest.mark.parametrize("running", [True, False])
def test_one_cancel_is_not_a_conflict_with_itself(desk: Desk, far: Desk, lossy: LossyStore, running: bool) -> None:
    id = desk.accept()
    if running:
        desk.claim(id)
    lossy.lose_next_reply()
    record = far.cancel(id)
    assert record is not None
    assert (lossy.lost, record.cancel, record.state) == (1, True, "running" if running else "cancelled")


def test_a_lost_sweep_loses_no_job(desk: Desk, far: Desk, lossy: LossyStore) -> None:
    id = desk.accept()
    desk.claim(id)
    desk.expire(id)
    lossy.lose_next_reply()
    assert far.sweep() == []
    assert (lossy.lost, desk.get(id).state) == (1, "queued")
    desk.client.hset(f"faultline:job:{id}", "rung_at", 0)
    assert desk.sweep() == [id]


def test_a_verdict_is_noted_once(desk: Desk, far: Desk, lossy: LossyStore) -> None:
    desk.succeed(desk.accept("a"))
    record = desk.submit("a").record
    lossy.lose_next_reply()
    noted = far.run(far.queue.set_verdict(record.id, OWNER, "pass"))
    assert noted is not None
    assert (lossy.lost, noted.revision) == (1, record.revision + 1)
