"""The store against a model of it in plain Python, over random sequences of calls by several workers."""

from dataclasses import dataclass, field
from typing import cast

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule, run_state_machine_as_test

from schemas.errors import Conflict, Fault
from schemas.job import TERMINAL_STATES
from storage.records import JobRecord
from tests.storage.desk import OWNER, PROBLEM, REPORT, Desk

SET_OF = {"queued": "pending", "running": "leases", "quarantined": "quarantine"}
MAX_TRIES = 5
ENDS = ("succeeded", "failed", "cancelled")


@dataclass
class ModelJob:
    """What a job must be, and what must never change again once it has ended."""

    id: str
    name: str
    fresh: bool
    state: str = "queued"
    attempt: int = 0
    tries: int = 0
    cancel: bool = False
    expired: bool = False
    report: str | None = None
    ended: JobRecord | None = None
    ended_by: int | None = None

    def holds(self, attempt: int) -> bool:
        return self.state == "running" and self.attempt == attempt

    def retire(self) -> None:
        self.expired = False
        if self.cancel:
            self.state = "cancelled"
        else:
            self.state = "quarantined" if self.tries >= MAX_TRIES else "queued"


@dataclass
class Model:
    jobs: dict[str, ModelJob] = field(default_factory=dict)
    keys: dict[str, tuple[str, str, bool]] = field(default_factory=dict)
    reports: set[str] = field(default_factory=set)
    leaders: dict[str, str] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)

    def is_led(self, job: ModelJob) -> bool:
        leader = self.jobs.get(self.leaders.get(job.name, ""))
        return leader is not None and leader is not job and leader.state == "running" and not leader.expired

    def claim(self, job: ModelJob) -> int | None:
        if job.state == "running" and job.expired:
            job.retire()
            self.let_go(job)
        if job.state != "queued":
            return None
        if job.fresh or job.name not in self.reports:
            if self.is_led(job):
                if not job.fresh:
                    return None
            else:
                self.leaders[job.name] = job.id
        job.state, job.attempt, job.tries = "running", job.attempt + 1, job.tries + 1
        return job.attempt

    def let_go(self, job: ModelJob) -> None:
        if self.leaders.get(job.name) == job.id:
            del self.leaders[job.name]


class StoreMachine(RuleBasedStateMachine):
    ids = Bundle("ids")
    claims = Bundle("claims")

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self.desk = desk
        self.model = Model()
        desk.client.flushall()

    @rule(target=ids, name=st.sampled_from("abc"), fresh=st.booleans(), key=st.sampled_from([None, None, "k1", "k2"]))
    def accept(self, name: str, fresh: bool, key: str | None) -> object:
        known = self.model.keys.get(key or "")
        if known is not None and known[1:] != (name, fresh):
            return multiple()
        accepted = self.desk.submit(name, key=key, fresh=fresh)
        id = accepted.record.id
        assert accepted.created == (known is None)
        if known is not None:
            assert id == known[0]
            return id
        job = ModelJob(id, name, fresh)
        if name in self.model.reports and not fresh:
            job.state, job.report = "succeeded", REPORT
        self.model.jobs[id] = job
        self.model.order.append(id)
        if key is not None:
            self.model.keys[key] = (id, name, fresh)
        return id

    @rule(target=claims, id=ids, worker=st.sampled_from(["w1", "w2", "w3"]))
    def claim(self, id: str, worker: str) -> object:
        expected = self.model.claim(self.model.jobs[id])
        claim = self.desk.leases.claim(id, worker)
        assert (claim and claim.attempt) == expected
        return multiple() if claim is None else (id, claim.attempt)

    @rule(held=claims, done=st.integers(0, 3))
    def beat(self, held: tuple[str, int], done: int) -> None:
        id, attempt = held
        job = self.model.jobs[id]
        answer = self.desk.leases.beat(id, attempt, {"done": done})
        if not job.holds(attempt):
            assert answer == "lost"
            return
        job.expired = False
        assert answer == ("cancel" if job.cancel else "ok")

    @rule(held=claims, end=st.sampled_from(ENDS))
    def finish(self, held: tuple[str, int], end: str) -> None:
        id, attempt = held
        job = self.model.jobs[id]
        content = {"report_sha256": REPORT} if end == "succeeded" else {"problem": PROBLEM}
        done = self.desk.leases.finish(id, attempt, end, **content)  # type: ignore[arg-type]
        repeated = job.ended_by == attempt and job.state == end
        assert done == (job.holds(attempt) or repeated)
        if done and not repeated:
            job.state, job.ended_by = end, attempt
            job.report = REPORT if end == "succeeded" else None
            self.model.let_go(job)
            if end == "succeeded":
                self.model.reports.add(job.name)

    @rule(held=claims, fault=st.booleans())
    def release(self, held: tuple[str, int], fault: bool) -> None:
        id, attempt = held
        job = self.model.jobs[id]
        holds = job.holds(attempt)
        released = self.desk.leases.release(id, attempt, Fault("killed") if fault else None)
        assert released or not holds
        if holds:
            job.tries -= 0 if fault else 1
            job.retire()
            self.model.let_go(job)

    @rule(id=ids)
    def expire(self, id: str) -> None:
        self.desk.expire(id)
        if self.model.jobs[id].state == "running":
            self.model.jobs[id].expired = True

    @rule()
    def sweep(self) -> None:
        returned = set()
        for job in self.model.jobs.values():
            if job.state == "running" and job.expired:
                job.retire()
                self.model.let_go(job)
                returned |= {job.id} if job.state == "queued" else set()
        rung = self.desk.sweep()
        assert len(rung) == len(set(rung))
        assert returned <= set(rung)
        assert all(self.model.jobs[id].state == "queued" for id in rung)

    @rule(id=ids)
    def cancel(self, id: str) -> None:
        job = self.model.jobs[id]
        if job.state in TERMINAL_STATES:
            try:
                self.desk.cancel(id)
            except Conflict:
                return
            raise AssertionError(job)
        assert self.desk.cancel(id) is not None
        job.cancel = True
        if job.state == "queued" or job.expired:
            job.state = "cancelled"
            self.model.let_go(job)

    @invariant()
    def every_job_is_what_the_model_says_and_in_its_one_place(self) -> None:
        records, following = self.desk.run(self.desk.queue.page(OWNER, 1000, None, None))
        assert following is None
        assert [record.id for record in records] == self.model.order[::-1]
        found = {name: set(self.desk.list_set(f"faultline:{name}")) for name in SET_OF.values()}
        for record in records:
            job = self.model.jobs[record.id]
            expected = (job.state, job.attempt, job.cancel, job.report)
            assert (record.state, record.attempt, record.cancel, record.report_sha256) == expected
            assert {name for name in found if job.id in found[name]} == ({SET_OF[job.state]} if job.state in SET_OF else set())
            if record.state in TERMINAL_STATES:
                assert record.ended_at is not None
                assert (record.problem is None) == (record.state == "succeeded")
                job.ended = job.ended or record
                assert record == job.ended

    @invariant()
    def lists_and_counts_agree_with_the_records(self) -> None:
        counts = self.desk.run(self.desk.queue.counts())
        for state, count in counts.items():
            expected = [id for id in self.model.order if self.model.jobs[id].state == state]
            assert self.desk.list_set(f"faultline:index:{state}:{OWNER}") == expected
            assert count == len(expected)

    @invariant()
    def only_queued_jobs_wait_for_a_twin(self) -> None:
        keys = cast("list[bytes]", self.desk.client.keys("faultline:waiting:*"))
        waiting = {cast("bytes", id).decode() for key in keys for id in self.desk.client.smembers(key)}
        assert all(self.model.jobs[id].state == "queued" for id in waiting)


def test_the_store_does_what_the_model_does(desk: Desk) -> None:
    class Machine(StoreMachine):
        def __init__(self) -> None:
            super().__init__(desk)

    bounds = settings(max_examples=30, stateful_step_count=40, deadline=None, derandomize=True, database=None)
    run_state_machine_as_test(Machine, settings=bounds)
