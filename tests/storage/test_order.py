"""Which job a worker gets when a doorbell rings: the queue's next one, by priority, fair between owners, within their limits."""

import json

import pytest

from storage.placement import Placement
from tests.storage.desk import OWNER, PROBLEM, REPORT, Desk

AGE_S = 600


def accept(desk: Desk, owner: str = OWNER, name: str | None = None, **placement: object) -> str:
    return desk.submit(name, owner=owner, placement=Placement(**placement)).record.id  # type: ignore[arg-type]


def claim_next(desk: Desk, device: str = "cpu", rung: str = "") -> str | None:
    claim = desk.leases.claim(rung, "w", device)
    return claim.id if claim else None


def claim_all(desk: Desk, device: str = "cpu") -> list[str]:
    ids = []
    while (id := claim_next(desk, device)) is not None:
        ids.append(id)
    return ids


def finish(desk: Desk, id: str, owner: str = OWNER) -> None:
    assert desk.leases.finish(id, desk.get(id, owner).attempt, "failed", problem=PROBLEM)


def let_wait(desk: Desk, id: str, seconds: float, owner: str = OWNER) -> None:
    """Let a queued job have waited for so long."""
    lane = f"faultline:lane:cpu:{desk.get(id, owner).priority}:{owner}"
    assert desk.client.zincrby(lane, -seconds * 1e6, id)


def test_any_doorbell_brings_the_next_job(desk: Desk) -> None:
    first, second = accept(desk), accept(desk)
    assert claim_next(desk, rung=second) == first
    assert claim_next(desk, rung="nothing") == second
    assert claim_next(desk, rung=first) is None


def test_better_priorities_come_first_and_equal_ones_in_order_of_arrival(desk: Desk) -> None:
    priorities = [5, 9, 0, 5, 1, 0]
    ids = [accept(desk, priority=priority) for priority in priorities]
    assert claim_all(desk) == [ids[place] for place in (2, 5, 4, 0, 3, 1)]


def test_one_owners_hundreds_of_jobs_do_not_keep_another_waiting(desk: Desk) -> None:
    many = [accept(desk, "many") for _ in range(300)]
    few = [accept(desk, "few") for _ in range(3)]
    served = []
    for _ in range(6):
        id = claim_next(desk)
        assert id is not None
        served.append(id)
        finish(desk, id, "few" if id in few else "many")
    assert served == [many[0], few[0], many[1], few[1], many[2], few[2]]


def test_among_owners_the_one_with_the_fewest_running_jobs_is_served(desk: Desk) -> None:
    a, b = [accept(desk, "a") for _ in range(4)], [accept(desk, "b") for _ in range(4)]
    assert claim_all(desk)[:4] == [a[0], b[0], a[1], b[1]]
    for id in b[:4]:
        finish(desk, id, "b")
    late = [accept(desk, "b") for _ in range(3)]
    new = accept(desk, "a")
    assert claim_all(desk) == [*late, new]


def test_a_job_that_waits_rises_until_it_is_first(desk: Desk) -> None:
    low = accept(desk, "a", priority=9)
    let_wait(desk, low, 8.5 * AGE_S, "a")
    high = [accept(desk, "b", priority=0) for _ in range(3)]
    assert claim_next(desk) == high[0]
    let_wait(desk, low, 0.6 * AGE_S, "a")
    assert claim_next(desk) == low
    assert claim_next(desk) == high[1]


def test_no_more_of_an_owners_jobs_run_than_its_limit(desk: Desk) -> None:
    ids = [accept(desk, max_running=2) for _ in range(4)]
    other = accept(desk, "other")
    assert claim_all(desk) == [ids[0], other, ids[1]]
    finish(desk, ids[0])
    assert claim_all(desk) == [ids[2]]
    attempt = desk.get(ids[1]).attempt
    assert desk.leases.release(ids[1], attempt)
    assert claim_all(desk) == [ids[1]]


def test_a_lost_worker_does_not_hold_its_owners_place_for_ever(desk: Desk) -> None:
    ids = [accept(desk, max_running=1) for _ in range(2)]
    assert claim_all(desk) == [ids[0]]
    desk.expire(ids[0])
    assert desk.sweep() == [ids[0]]
    assert claim_all(desk) == [ids[0]]
    # As a program that keeps no such set ends it.
    desk.client.sadd(f"faultline:running:{OWNER}", "gone")
    finish(desk, ids[0])
    assert claim_all(desk) == [ids[1]]


def test_classes_of_devices_are_apart(desk: Desk) -> None:
    cpu, cuda = accept(desk), accept(desk, device="cuda")
    assert claim_next(desk, "cuda", rung=cpu) == cuda
    assert claim_next(desk, "cuda") is None
    assert claim_next(desk, rung=cuda) == cpu


def test_a_sweep_says_whose_workers_to_call(desk: Desk) -> None:
    ids = {accept(desk, device=device): device for device in ("cpu", "cuda")}
    for id in ids:
        desk.client.hset(f"faultline:job:{id}", "rung_at", 0)
    assert desk.leases.sweep() == ids


def test_jobs_over_their_owners_limit_do_not_ring(desk: Desk) -> None:
    ids = [accept(desk, max_running=1) for _ in range(50)]
    assert claim_all(desk) == [ids[0]]
    other = accept(desk, "other")
    for id in (*ids, other):
        desk.client.hset(f"faultline:job:{id}", "rung_at", 0)
    assert desk.sweep() == [other]


@pytest.mark.parametrize("way", ["rung", "swept"])
def test_a_job_of_a_program_without_lanes_is_found(desk: Desk, way: str) -> None:
    id = accept(desk)
    desk.client.hdel(f"faultline:job:{id}", "device", "priority", "max_running")
    for key in desk.client.scan_iter("faultline:lane*"):
        desk.client.delete(key)
    if way == "swept":
        assert claim_next(desk, "cuda") is None
        assert desk.leases.sweep("cuda") == {}
    assert claim_next(desk, "cuda", rung=id if way == "rung" else "") == id
    assert desk.get(id).device == "cuda"


def test_every_job_of_a_long_queue_without_lanes_is_found_in_a_few_sweeps(desk: Desk) -> None:
    ids = [accept(desk) for _ in range(150)]
    for key in desk.client.scan_iter("faultline:lane*"):
        desk.client.delete(key)
    for _ in range(3):
        desk.sweep()
    assert claim_all(desk) == ids


def test_jobs_that_are_not_queued_any_more_are_passed_over(desk: Desk) -> None:
    ended, newer, removed, ours = (accept(desk) for _ in range(4))
    desk.succeed(ended)
    desk.client.hset(f"faultline:job:{newer}", "schema_version", "2")
    before = desk.client.hgetall(f"faultline:job:{newer}")
    desk.client.delete(f"faultline:job:{removed}")
    desk.client.zadd(f"faultline:lane:cpu:5:{OWNER}", {ended: 1})
    assert claim_all(desk) == [ours]
    assert desk.client.hgetall(f"faultline:job:{newer}") == before
    assert desk.find_sets(newer) == {"pending"}


def test_an_equal_audit_of_better_priority_runs_first_and_the_other_gets_its_report(desk: Desk) -> None:
    slow, quick = accept(desk, name="a", priority=9), accept(desk, name="a", priority=0)
    between = accept(desk, priority=5)
    assert claim_next(desk) == quick
    assert claim_all(desk) == [between]
    assert desk.leases.finish(quick, 1, "succeeded", report_sha256=REPORT)
    claim = desk.leases.claim("", "w", "cpu")
    assert claim is not None
    assert (claim.id, claim.report_sha256) == (slow, REPORT)


def test_one_that_waits_for_a_running_equal_audit_keeps_its_own_priority(desk: Desk) -> None:
    running = accept(desk, name="a", priority=9)
    assert claim_next(desk) == running
    urgent, others = accept(desk, name="a", priority=0), [accept(desk, priority=1) for _ in range(2)]
    assert claim_next(desk) == others[0]
    assert desk.leases.release(running, 1)
    assert claim_all(desk) == [urgent, others[1]]


def test_equal_audits_of_other_owners_share_nothing(desk: Desk) -> None:
    a, b = accept(desk, "a", name="same"), accept(desk, "b", name="same")
    assert claim_all(desk) == [a, b]
    assert desk.leases.finish(a, 1, "succeeded", report_sha256=REPORT)
    assert desk.submit("same", owner="b").reused is False
    assert desk.submit("same", owner="a").reused is True


def test_a_report_that_is_not_complete_answers_no_equal_audit(desk: Desk) -> None:
    first, waiting = accept(desk, name="a"), accept(desk, name="a")
    assert claim_all(desk) == [first]
    assert desk.leases.finish(first, 1, "succeeded", report_sha256=REPORT, complete=False)
    assert desk.submit("a").reused is False
    claim = desk.leases.claim("", "w", "cpu")
    assert claim is not None
    assert (claim.id, claim.report_sha256) == (waiting, None)


def test_a_claim_says_how_long_is_left(desk: Desk) -> None:
    accept(desk, deadline_s=100.0)
    accept(desk)
    claims = [desk.leases.claim("", "w", "cpu") for _ in range(2)]
    lefts = [claim.left_s for claim in claims if claim]
    assert lefts[0] is not None
    assert 90 < lefts[0] <= 100
    assert lefts[1] is None


@pytest.mark.parametrize("way", ["swept", "claimed", "claimed by id", "released", "lost"])
def test_a_job_whose_deadline_is_past_is_not_started(desk: Desk, way: str) -> None:
    id = accept(desk, name="late", deadline_s=1000.0)
    attempt = desk.claim(id).attempt if way in {"released", "lost"} else 0
    desk.client.hset(f"faultline:job:{id}", "deadline_at", 1)
    desk.client.zadd("faultline:deadlines", {id: 1}, xx=True)
    if way == "swept":
        assert desk.sweep() == []
    elif way == "released":
        assert desk.leases.release(id, attempt)
    elif way == "lost":
        desk.expire(id)
        assert desk.sweep() == []
    else:
        assert desk.leases.claim(id, "w", "cpu" if way == "claimed" else None) is None
    record = desk.get(id)
    assert (record.state, (record.problem or {})["code"]) == ("failed", "deadline_missed")
    assert record.ended_at is not None
    assert desk.find_sets(id) == set()
    assert desk.list_set("faultline:deadlines") == []
    assert json.dumps(record.problem).count("deadline") > 1


def test_a_running_job_is_left_to_its_worker_at_the_deadline(desk: Desk) -> None:
    id = accept(desk, deadline_s=1000.0)
    attempt = desk.claim(id).attempt
    desk.client.hset(f"faultline:job:{id}", "deadline_at", 1)
    assert desk.sweep() == []
    assert desk.leases.beat(id, attempt) == "ok"
    assert desk.leases.finish(id, attempt, "succeeded", report_sha256=REPORT, complete=False)
