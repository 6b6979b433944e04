"""The order of claims against a model of it in plain Python, over random calls; and over many workers at once."""

import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from typing import cast

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule, run_state_machine_as_test

from schemas.errors import Conflict, Fault
from storage.leases import Leases
from storage.placement import Placement
from tests.storage.desk import REPORT, Desk

OWNERS = ("a", "b", "c")
DEVICES = ("cpu", "cuda")
WORKERS = 6


@dataclass
class Waiting:
    """A queued or running job as the model has it; `place` is its order of arrival."""

    id: str
    place: int
    owner: str
    placement: Placement
    attempt: int | None = None


@dataclass
class Model:
    jobs: dict[str, Waiting] = field(default_factory=dict)
    served: dict[str, int] = field(default_factory=dict)
    clock: "count[int]" = field(default_factory=lambda: count(1))

    def count_running(self, owner: str) -> int:
        return sum(job.owner == owner and job.attempt is not None for job in self.jobs.values())

    def choose(self, device: str) -> Waiting | None:
        """Return the next job: of each owner and priority the oldest, and the best of these that may run."""
        heads: dict[tuple[str, int], Waiting] = {}
        for job in sorted(self.jobs.values(), key=lambda job: job.place):
            if job.attempt is None and job.placement.device == device:
                heads.setdefault((job.owner, job.placement.priority), job)
        free = [
            job
            for job in heads.values()
            if not job.placement.max_running or self.count_running(job.owner) < job.placement.max_running
        ]
        return min(free, key=self._rank, default=None)

    def _rank(self, job: Waiting) -> tuple[int, int, int, int]:
        return job.placement.priority, self.count_running(job.owner), self.served.get(job.owner, 0), job.place


class OrderMachine(RuleBasedStateMachine):
    ids = Bundle("ids")
    running = Bundle("running")

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self.desk = desk
        self.model = Model()
        desk.client.flushall()

    @rule(
        target=ids,
        owner=st.sampled_from(OWNERS),
        device=st.sampled_from(DEVICES),
        priority=st.integers(0, 2),
        max_running=st.sampled_from([0, 0, 1, 2]),
    )
    def accept(self, owner: str, device: str, priority: int, max_running: int) -> str:
        placement = Placement(device, priority, max_running)
        id = self.desk.submit(owner=owner, placement=placement).record.id
        self.model.jobs[id] = Waiting(id, next(self.model.clock), owner, placement)
        return id

    @rule(target=running, device=st.sampled_from(DEVICES), rung=st.one_of(ids, st.just("")))
    def claim(self, device: str, rung: str) -> object:
        expected = self.model.choose(device)
        claim = self.desk.leases.claim(rung, "w", device)
        assert (claim and claim.id) == (expected and expected.id)
        if claim is None or expected is None:
            return multiple()
        expected.attempt = claim.attempt
        self.model.served[expected.owner] = next(self.model.clock)
        return claim.id

    @rule(id=running, fault=st.booleans())
    def release(self, id: str, fault: bool) -> None:
        job = self.model.jobs.get(id)
        if job is not None and job.attempt is not None:
            assert self.desk.leases.release(id, job.attempt, Fault("killed") if fault else None)
            self._let_go(job)

    @rule(id=running)
    def finish(self, id: str) -> None:
        job = self.model.jobs.get(id)
        if job is not None and job.attempt is not None:
            assert self.desk.leases.finish(id, job.attempt, "succeeded", report_sha256=REPORT)
            del self.model.jobs[id]

    @rule(id=running)
    def lose(self, id: str) -> None:
        job = self.model.jobs.get(id)
        if job is not None and job.attempt is not None:
            self.desk.expire(id)
            assert self.desk.leases.sweep().get(id) in {job.placement.device, None}
            self._let_go(job)

    @rule(id=ids)
    def cancel(self, id: str) -> None:
        try:
            record = self.desk.cancel(id, self.model.jobs[id].owner if id in self.model.jobs else "a")
        except Conflict:
            return
        if record is not None and record.state == "cancelled":
            del self.model.jobs[id]

    def _let_go(self, job: Waiting) -> None:
        job.attempt = None
        record = self.desk.get(job.id, job.owner)
        if record.state != "queued":
            assert record.state in {"cancelled", "quarantined"}
            del self.model.jobs[job.id]

    @invariant()
    def every_queued_job_is_in_its_lane_and_no_other(self) -> None:
        keys = [key.decode() for key in cast("list[bytes]", self.desk.client.keys("faultline:lane:*"))]
        lanes = {key: self.desk.list_set(key) for key in keys}
        expected: dict[str, list[str]] = {}
        for job in self.model.jobs.values():
            if job.attempt is None:
                key = f"faultline:lane:{job.placement.device}:{job.placement.priority}:{job.owner}"
                expected.setdefault(key, []).append(job.id)
        assert {key: sorted(ids) for key, ids in lanes.items()} == {key: sorted(ids) for key, ids in expected.items()}

    @invariant()
    def those_that_run_are_counted(self) -> None:
        for owner in OWNERS:
            running = {job.id for job in self.model.jobs.values() if job.owner == owner and job.attempt is not None}
            members = cast("set[bytes]", self.desk.client.smembers(f"faultline:running:{owner}"))
            assert {id.decode() for id in members} == running


def test_claims_come_in_the_order_of_the_model(desk: Desk) -> None:
    class Machine(OrderMachine):
        def __init__(self) -> None:
            super().__init__(desk)

    bounds = settings(max_examples=20, stateful_step_count=30, deadline=None, derandomize=True, database=None)
    run_state_machine_as_test(Machine, settings=bounds)


def test_many_workers_lose_nothing_keep_every_limit_and_starve_nobody(desk: Desk) -> None:
    limits = {"many": 3, "few": 0, "one": 1}
    amounts = {"many": 60, "few": 8, "one": 6}
    names = {owner: [f"{owner} {n // 2}" for n in range(amounts[owner])] for owner in limits}  # each audit is asked for twice
    owners = {
        desk.submit(name, owner=owner, placement=Placement(max_running=limits[owner])).record.id: owner
        for owner in limits
        for name in names[owner]
    }
    lock, running, most, ended, order = threading.Lock(), Counter[str](), Counter[str](), Counter[str](), list[str]()

    def work(seed: int) -> None:
        chance = random.Random(seed)
        with desk.server.connect() as client:
            leases = Leases(client, lease_s=30.0, max_tries=10**6)
            while client.zcard("faultline:pending") or client.zcard("faultline:leases"):
                with lock:  # claiming and counting are one step, so that what is counted is what the store counts
                    claim = leases.claim(chance.choice(list(owners)), f"w{seed}", "cpu")
                    if claim is not None:
                        running[claim.owner] += 1
                        most[claim.owner] = max(most[claim.owner], running[claim.owner])
                        order.append(claim.owner)
                if claim is None:
                    leases.sweep()
                    continue
                time.sleep(chance.random() * 0.004)
                with lock:
                    running[claim.owner] -= 1
                    if chance.random() < 0.2:
                        assert leases.release(claim.id, claim.attempt)
                    elif leases.finish(claim.id, claim.attempt, "succeeded", report_sha256=REPORT):
                        ended[claim.id] += 1

    with ThreadPoolExecutor(WORKERS) as pool:
        for each in [pool.submit(work, seed) for seed in range(WORKERS)]:
            each.result(60)
    assert ended == dict.fromkeys(owners, 1)
    assert {owner: most[owner] for owner in ("many", "one")} == {"many": 3, "one": 1}
    # The last of the few is served while most of the many still wait.
    assert max(place for place, owner in enumerate(order) if owner == "few") < len(order) * 2 / 3
