"""Which jobs a sweep names, so that a lost doorbell delays an audit and does not lose it."""

from collections.abc import Callable

import pytest

from storage.leases import Leases
from tests.storage.desk import Desk

QUIET_S = 5.0


@pytest.fixture
def age(desk: Desk) -> Callable[[str, float], None]:
    """Let seconds pass since a job's doorbell rang."""

    def let_pass(id: str, seconds: float) -> None:
        rung = float(desk.client.hget(f"faultline:job:{id}", "rung_at") or 0)
        desk.client.hset(f"faultline:job:{id}", "rung_at", f"{rung - seconds * 1e6:.0f}")

    return let_pass


def test_a_fresh_doorbell_is_given_time(desk: Desk, age: Callable[[str, float], None]) -> None:
    id = desk.accept()
    age(id, QUIET_S - 1)
    assert desk.sweep() == []
    age(id, 1.1)
    assert desk.sweep() == [id]
    assert desk.sweep() == []


def test_an_unanswered_doorbell_rings_after_longer_and_longer_silence(desk: Desk, age: Callable[[str, float], None]) -> None:
    id = desk.accept()
    for silence in (5, 10, 20, 40, 60, 60):
        age(id, silence - 1)
        assert desk.sweep() == []
        age(id, 1.1)
        assert desk.sweep() == [id]


def test_a_job_that_ran_in_between_starts_with_the_shortest_silence(desk: Desk, age: Callable[[str, float], None]) -> None:
    id = desk.accept()
    age(id, 1000)
    assert desk.sweep() == [id]
    assert desk.leases.release(id, desk.claim(id).attempt)
    age(id, QUIET_S)
    assert desk.sweep() == [id]


def test_only_the_oldest_sixteen_ring_oldest_first(desk: Desk, age: Callable[[str, float], None]) -> None:
    ids = [desk.accept() for _ in range(40)]
    for id in ids:
        age(id, 1000)
    assert desk.sweep() == ids[:16]
    assert desk.sweep() == []
    for id in ids[:10]:
        desk.claim(id)
    assert desk.sweep() == ids[16:26]


def test_records_of_a_newer_program_do_not_take_the_place_of_ours(desk: Desk, age: Callable[[str, float], None]) -> None:
    newer = [desk.accept() for _ in range(100)]
    for id in newer:
        desk.client.hset(f"faultline:job:{id}", "schema_version", "2")
    ours = desk.accept()
    age(ours, 1000)
    assert desk.sweep() == [ours]


def test_running_jobs_do_not_ring(desk: Desk, age: Callable[[str, float], None]) -> None:
    id = desk.accept()
    desk.claim(id)
    age(id, 1000)
    assert desk.sweep() == []


def test_every_expired_lease_rings_at_once(desk: Desk) -> None:
    ids = [desk.accept() for _ in range(20)]
    for id in ids:
        desk.claim(id)
        desk.expire(id)
    assert sorted(desk.sweep()) == ids


def test_celerys_own_keys_play_no_part(desk: Desk, age: Callable[[str, float], None]) -> None:
    id = desk.accept()
    desk.client.hset("unacked", "tag", f'[{{"body": "{id}"}}]')
    desk.client.zadd("unacked_index", {"tag": 1e12})
    desk.client.lpush("faultline.cpu", f'{{"body": "{id}"}}')
    age(id, 1000)
    assert [*Leases(desk.client).sweep()] == [id]
