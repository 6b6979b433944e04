"""Each transition of one job, and every way in which a worker can be too late."""

from datetime import timedelta

import pytest

from schemas.errors import Conflict, Fault
from schemas.problem import Problem
from storage.leases import Leases
from tests.storage.desk import LEASE_S, OWNER, PROBLEM, REPORT, Desk, wait_out_lease


@pytest.fixture
def hasty(desk: Desk) -> Leases:
    """Leases that run out within the test."""
    return Leases(desk.client, lease_s=LEASE_S)


def test_a_claim_hands_over_the_job_and_holds_it(desk: Desk) -> None:
    record = desk.submit("a").record
    claim = desk.claim(record.id)
    assert (claim.id, claim.attempt, claim.owner) == (record.id, 1, OWNER)
    assert (claim.request, claim.request_digest, claim.report_sha256) == (record.request, record.request_digest, None)
    running = desk.get(record.id)
    assert (running.state, running.attempt, running.revision) == ("running", 1, record.revision + 1)
    assert running.started_at is not None
    assert running.started_at >= record.created_at
    assert desk.find_sets(record.id) == {"leases"}
    assert desk.leases.claim(record.id, "another") is None


def test_what_is_not_there_cannot_be_claimed_beaten_finished_or_released(desk: Desk) -> None:
    assert desk.leases.claim("nothing", "w") is None
    assert desk.leases.beat("nothing", 1) == "lost"
    assert not desk.leases.finish("nothing", 1, "failed", problem=PROBLEM)
    assert not desk.leases.release("nothing", 1)


def test_beats_keep_the_lease_and_show_progress(desk: Desk, hasty: Leases) -> None:
    id = desk.accept()
    claim = hasty.claim(id, "w")
    assert claim is not None
    progress = {"phase": "search", "done": 1, "total": 3, "eta_s": None}
    for done in range(4):
        wait_out_lease() if done == 0 else None
        assert hasty.beat(id, claim.attempt, {**progress, "done": done}) == "ok"
    assert desk.get(id).progress == {**progress, "done": 3}
    assert desk.leases.claim(id, "another") is None


def test_only_progress_that_changed_raises_the_revision(desk: Desk) -> None:
    id = desk.accept()
    attempt = desk.claim(id).attempt
    revisions = [desk.get(id).revision]
    for progress in (None, {"done": 1}, {"done": 1}, None, {"done": 2}):
        assert desk.leases.beat(id, attempt, progress) == "ok"
        revisions.append(desk.get(id).revision - revisions[0])
    assert revisions[1:] == [0, 1, 1, 1, 2]


def test_success_carries_report_and_verdict(desk: Desk) -> None:
    id = desk.accept()
    attempt = desk.claim(id).attempt
    assert desk.leases.finish(id, attempt, "succeeded", report_sha256=REPORT, verdict="warn")
    record = desk.get(id)
    assert (record.state, record.report_sha256, record.verdict, record.problem) == ("succeeded", REPORT, "warn", None)
    assert record.started_at is not None
    assert record.ended_at is not None
    assert timedelta(0) <= record.ended_at - record.started_at < timedelta(seconds=5)
    assert desk.find_sets(id) == set()


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_other_ends_carry_their_problem(desk: Desk, state: str) -> None:
    id = desk.accept()
    assert desk.leases.finish(id, desk.claim(id).attempt, state, problem=PROBLEM)  # type: ignore[arg-type]
    record = desk.get(id)
    assert (record.state, record.problem, record.report_sha256) == (state, PROBLEM, None)


def test_an_end_without_what_belongs_to_it_is_a_programmers_error(desk: Desk) -> None:
    id = desk.accept()
    attempt = desk.claim(id).attempt
    for state, report, problem in (
        ("succeeded", None, None),
        ("failed", None, None),
        ("failed", REPORT, PROBLEM),
        ("succeeded", REPORT, PROBLEM),
    ):
        with pytest.raises(ValueError, match="does not go with"):
            desk.leases.finish(id, attempt, state, report_sha256=report, problem=problem)  # type: ignore[arg-type]
    assert desk.get(id).state == "running"


def test_finishing_again_is_true_only_for_the_same_end_by_the_same_attempt(desk: Desk) -> None:
    id = desk.accept()
    attempt = desk.claim(id).attempt
    finish = desk.leases.finish
    assert finish(id, attempt, "succeeded", report_sha256=REPORT)
    ended = desk.get(id)
    assert finish(id, attempt, "succeeded", report_sha256=REPORT)
    assert not finish(id, attempt, "succeeded", report_sha256=REPORT[::-1])
    assert not finish(id, attempt, "failed", problem=PROBLEM)
    assert not finish(id, attempt + 1, "succeeded", report_sha256=REPORT)
    assert desk.get(id) == ended


def test_a_lease_that_ran_out_is_taken_over_and_its_holder_fenced(desk: Desk, hasty: Leases) -> None:
    id = desk.accept()
    slow = hasty.claim(id, "slow")
    assert slow is not None
    wait_out_lease()
    quick = desk.leases.claim(id, "quick")
    assert quick is not None
    assert quick.attempt == slow.attempt + 1
    assert desk.leases.beat(id, slow.attempt) == "lost"
    assert not desk.leases.finish(id, slow.attempt, "succeeded", report_sha256=REPORT)
    assert not desk.leases.release(id, slow.attempt)
    assert desk.get(id).state == "running"
    assert desk.leases.finish(id, quick.attempt, "succeeded", report_sha256=REPORT)


def test_a_holder_that_comes_back_before_anyone_noticed_goes_on(desk: Desk, hasty: Leases) -> None:
    id = desk.accept()
    claim = hasty.claim(id, "w")
    assert claim is not None
    wait_out_lease()
    assert hasty.beat(id, claim.attempt) == "ok"
    assert desk.sweep() == []
    assert hasty.finish(id, claim.attempt, "succeeded", report_sha256=REPORT)


def test_a_released_job_is_queued_again_at_no_cost_and_its_old_number_is_void(desk: Desk) -> None:
    id = desk.accept()
    for number in range(1, 9):
        claim = desk.claim(id)
        assert claim.attempt == number
        assert desk.leases.release(id, claim.attempt)
        record = desk.get(id)
        assert (record.state, record.started_at, record.progress) == ("queued", None, None)
        assert desk.find_sets(id) == {"pending"}
        for void in range(1, number + 1):
            assert desk.leases.beat(id, void) == "lost"
            assert not desk.leases.finish(id, void, "succeeded", report_sha256=REPORT)
    held = desk.claim(id)
    assert not any(desk.leases.finish(id, number, "succeeded", report_sha256=REPORT) for number in range(1, held.attempt))
    assert desk.leases.finish(id, held.attempt, "succeeded", report_sha256=REPORT)


def test_a_sweep_returns_silent_workers_jobs_and_names_them(desk: Desk) -> None:
    silent, alive, waiting = (desk.accept() for _ in range(3))
    desk.claim(silent)
    desk.claim(alive)
    desk.expire(silent)
    assert desk.sweep() == [silent]
    assert [desk.get(id).state for id in (silent, alive, waiting)] == ["queued", "running", "queued"]
    assert desk.sweep() == []


def test_five_lost_attempts_are_enough(desk: Desk) -> None:
    id = desk.accept()
    for _ in range(5):
        assert desk.get(id).state == "queued"
        desk.lose_worker(id)
    record = desk.get(id)
    assert (record.state, record.attempt) == ("quarantined", 5)
    assert Problem.model_validate(record.problem).code == "attempts_exhausted"
    assert desk.find_sets(id) == {"quarantine"}
    assert desk.leases.claim(id, "w") is None
    assert desk.sweep() == []


def test_a_claim_quarantines_too_when_no_sweep_came_before(desk: Desk) -> None:
    id = desk.accept()
    for _ in range(5):
        desk.claim(id)
        desk.expire(id)
    assert desk.leases.claim(id, "w") is None
    assert desk.get(id).state == "quarantined"


def test_a_release_with_a_fault_counts_and_the_last_fault_is_told(desk: Desk) -> None:
    id = desk.accept()
    for number in range(5):
        claim = desk.claim(id)
        assert desk.leases.release(id, claim.attempt, Fault(f"killed by signal {number}"))
    record = desk.get(id)
    assert record.state == "quarantined"
    assert [error.what for error in Problem.model_validate(record.problem).errors][1:] == ["killed by signal 4"]


def test_cancelling_a_queued_job_ends_it(desk: Desk) -> None:
    id = desk.accept()
    record = desk.cancel(id)
    assert record is not None
    assert (record.state, record.cancel) == ("cancelled", True)
    assert Problem.model_validate(record.problem).code == "cancelled"
    assert desk.find_sets(id) == set()
    assert desk.leases.claim(id, "w") is None


def test_cancelling_a_running_job_asks_its_worker(desk: Desk) -> None:
    id = desk.accept()
    attempt = desk.claim(id).attempt
    record = desk.cancel(id)
    assert record is not None
    assert (record.state, record.cancel) == ("running", True)
    assert desk.cancel(id) == record
    assert desk.leases.beat(id, attempt) == "cancel"
    assert desk.leases.finish(id, attempt, "cancelled", problem=PROBLEM)
    assert desk.get(id).state == "cancelled"


def test_a_worker_that_was_done_before_it_heard_of_the_cancel_still_reports(desk: Desk) -> None:
    id = desk.accept()
    attempt = desk.claim(id).attempt
    desk.cancel(id)
    assert desk.leases.finish(id, attempt, "succeeded", report_sha256=REPORT)
    assert desk.get(id).state == "succeeded"


@pytest.mark.parametrize("how", ["released", "lost", "lost before"])
def test_a_cancelled_job_is_not_run_again(desk: Desk, how: str) -> None:
    id = desk.accept()
    attempt = desk.claim(id).attempt
    if how == "lost before":
        desk.expire(id)
    desk.cancel(id)
    if how == "lost":
        desk.expire(id)
        assert desk.sweep() == []
    if how == "released":
        assert desk.leases.release(id, attempt)
    record = desk.get(id)
    assert record.state == "cancelled"
    assert Problem.model_validate(record.problem).code == "cancelled"
    assert desk.find_sets(id) == set()
    assert desk.leases.beat(id, attempt) == "lost"


@pytest.mark.parametrize("end", ["succeeded", "cancelled", "quarantined"])
def test_what_has_ended_cannot_be_cancelled(desk: Desk, end: str) -> None:
    id = desk.accept()
    if end == "succeeded":
        desk.succeed(id)
    elif end == "cancelled":
        desk.cancel(id)
    else:
        for _ in range(5):
            desk.lose_worker(id)
    before = desk.get(id)
    with pytest.raises(Conflict) as raised:
        desk.cancel(id)
    assert raised.value.faults[0].got == end
    assert desk.get(id) == before


def test_a_verdict_is_for_success_only_and_does_not_change(desk: Desk) -> None:
    id = desk.accept()
    with pytest.raises(Conflict):
        desk.set_verdict(id, "pass")
    desk.succeed(id)
    with pytest.raises(Conflict):
        desk.set_verdict(id, "fail")
    assert desk.get(id).verdict == "pass"


def test_counts_follow_every_transition(desk: Desk) -> None:
    queued, running, succeeded, failed, cancelled, quarantined = (desk.accept() for _ in range(6))
    desk.claim(running)
    desk.succeed(succeeded)
    desk.leases.finish(failed, desk.claim(failed).attempt, "failed", problem=PROBLEM)
    desk.cancel(cancelled)
    for _ in range(5):
        desk.lose_worker(quarantined)
    assert set(desk.run(desk.queue.counts()).items()) == {
        (state, 1) for state in ("queued", "running", "succeeded", "failed", "cancelled", "quarantined")
    }
    assert desk.get(queued).state == "queued"


def test_workers_are_those_that_announced_themselves_lately(desk: Desk) -> None:
    assert desk.run(desk.queue.workers()) == []
    desk.leases.announce("a", 30)
    desk.leases.announce("a", 30, {"seccomp": True})
    desk.leases.announce("b", 30)
    desk.leases.announce("c", 0.05)
    desk.leases.announce("b", 0)
    wait_out_lease()
    assert desk.run(desk.queue.workers()) == [{"seccomp": True}]


def test_records_of_a_newer_program_are_left_alone(desk: Desk) -> None:
    queued, running = desk.accept(), desk.accept()
    attempt = desk.claim(running).attempt
    for id in (queued, running):
        desk.client.hset(f"faultline:job:{id}", mapping={"schema_version": "2", "rung_at": "0", "new": "field"})
    desk.expire(running)
    before = [desk.get(queued), desk.get(running)]
    assert desk.sweep() == []
    assert desk.leases.claim(queued, "w") is None
    assert desk.leases.claim(running, "w") is None
    assert desk.leases.beat(running, attempt) == "lost"
    for id in (queued, running):
        with pytest.raises(Conflict):
            desk.cancel(id)
    assert [desk.get(queued), desk.get(running)] == before
