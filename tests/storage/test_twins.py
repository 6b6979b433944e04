"""Equal requests at once run once: the second waits for the first one's report, whatever becomes of the first."""

import pytest

from tests.storage.desk import PROBLEM, REPORT, Desk


def test_the_second_waits_and_gets_the_firsts_report(desk: Desk) -> None:
    first, second = desk.accept("a"), desk.accept("a")
    attempt = desk.claim(first).attempt
    assert desk.leases.claim(second, "w") is None
    assert desk.find_sets(second) == {"pending"}
    assert desk.sweep() == []
    assert desk.leases.finish(first, attempt, "succeeded", report_sha256=REPORT)
    assert desk.sweep() == [second]
    claim = desk.claim(second)
    assert claim.report_sha256 == REPORT
    assert desk.leases.finish(second, claim.attempt, "succeeded", report_sha256=REPORT, verdict="fail")
    assert desk.get(second).verdict == "fail"


@pytest.mark.parametrize("how", ["failed", "released", "lost", "cancelled"])
def test_if_the_first_makes_no_report_the_second_runs(desk: Desk, how: str) -> None:
    first, second = desk.accept("a"), desk.accept("a")
    attempt = desk.claim(first).attempt
    assert desk.leases.claim(second, "w") is None
    if how == "failed":
        assert desk.leases.finish(first, attempt, "failed", problem=PROBLEM)
    elif how == "released":
        assert desk.leases.release(first, attempt)
    elif how == "lost":
        desk.expire(first)
    else:
        desk.expire(first)
        desk.cancel(first)
    assert second in desk.sweep()
    assert desk.claim(second).report_sha256 is None
    assert desk.leases.claim(first, "w") is None


def test_a_second_that_overtook_a_dead_first_is_not_run_beside_it(desk: Desk) -> None:
    first, second = desk.accept("a"), desk.accept("a")
    desk.claim(first)
    desk.expire(first)
    overtaking = desk.claim(second)
    assert desk.sweep() == [first]
    assert desk.leases.claim(first, "w") is None
    assert desk.leases.finish(second, overtaking.attempt, "succeeded", report_sha256=REPORT)
    assert desk.sweep() == [first]
    assert desk.claim(first).report_sha256 == REPORT


def test_fresh_requests_wait_for_nobody_and_get_nobodys_report(desk: Desk) -> None:
    fresh = [desk.submit("a", fresh=True).record.id for _ in range(3)]
    claims = [desk.claim(id) for id in fresh]
    assert desk.leases.finish(fresh[0], claims[0].attempt, "succeeded", report_sha256=REPORT)
    late = desk.submit("a", fresh=True).record.id
    assert desk.claim(late).report_sha256 is None


def test_a_fresh_one_that_ends_does_not_let_others_in_beside_the_first(desk: Desk) -> None:
    first, fresh, second = desk.accept("a"), desk.submit("a", fresh=True).record.id, desk.accept("a")
    desk.claim(first)
    assert desk.leases.finish(fresh, desk.claim(fresh).attempt, "failed", problem=PROBLEM)
    assert desk.leases.claim(second, "w") is None


def test_other_owners_and_other_audits_do_not_wait(desk: Desk) -> None:
    ids = [desk.accept("a"), desk.accept("b"), desk.submit("a", owner="other").record.id]
    assert [desk.claim(id).attempt for id in ids] == [1, 1, 1]


def test_those_that_wait_do_not_keep_other_doorbells_from_ringing(desk: Desk) -> None:
    first, *waiting = [desk.accept("a") for _ in range(50)]
    attempt = desk.claim(first).attempt
    assert all(desk.leases.claim(id, "w") is None for id in waiting)
    other = desk.accept("b")
    for id in [*waiting, other]:
        desk.client.hset(f"faultline:job:{id}", "rung_at", 0)
    assert desk.sweep() == [other]
    assert desk.leases.finish(first, attempt, "succeeded", report_sha256=REPORT)
    rung: set[str] = set()
    for _ in range(4):
        rung |= set(desk.sweep())
    assert rung == set(waiting)


def test_a_cancelled_one_is_not_waited_for_or_woken(desk: Desk) -> None:
    first, second = desk.accept("a"), desk.accept("a")
    attempt = desk.claim(first).attempt
    assert desk.leases.claim(second, "w") is None
    desk.cancel(second)
    assert desk.client.keys("faultline:waiting:*") == []
    assert desk.leases.finish(first, attempt, "succeeded", report_sha256=REPORT)
    assert desk.sweep() == []
