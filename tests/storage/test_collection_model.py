"""No sequence of calls makes the collector remove what a job needs; what nothing needs goes once its time is up."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule, run_state_machine_as_test

from schemas.base import compute_sha256
from schemas.errors import Conflict, InvalidRequest, NotFound
from storage.collection import Lifetimes
from tests.storage.desk import PROBLEM, Desk
from tests.storage.keeping import GRACE_S, Keeper, build_request, make_report

OWNERS = ("acme", "globex")
MODELS = [f"model {i}".encode() for i in range(3)]
DATA = b"data"
COUNTEREXAMPLES = [b"counterexample a", b"counterexample b"]
RETENTION_S = 10 * GRACE_S


@dataclass
class ModelJob:
    """What is known of a job: whose it is, what it reads, and the attempt and report of the worker that holds it."""

    owner: str
    model: bytes
    attempt: int | None = None
    written: str | None = None
    ended: bool = False
    report: str | None = None


class KeeperMachine(RuleBasedStateMachine):
    ids = Bundle("ids")

    def __init__(self, keeper: Keeper) -> None:
        super().__init__()
        self.keeper = keeper
        self.jobs: dict[str, ModelJob] = {}
        keeper.desk.client.flushall()

    @rule(owner=st.sampled_from(OWNERS), content=st.sampled_from([*MODELS, DATA]))
    def upload(self, owner: str, content: bytes) -> None:
        self.keeper.artifacts.put_bytes(owner, content)

    @rule(owner=st.sampled_from(OWNERS), content=st.sampled_from([*MODELS, DATA]), size=st.integers(0, 3))
    def upload_in_parts(self, owner: str, content: bytes, size: int) -> None:
        begun = self.keeper.uploads.create(owner, len(content), None)
        with self.keeper.uploads.open(owner, begun) as part:
            part.write(content[: size * 3])
            part.write(content[size * 3 :] if size else b"")
        progress = self.keeper.uploads.find(owner, begun.id)
        assert progress is not None
        if progress.offset == len(content):
            self.keeper.uploads.complete(owner, progress)

    @rule(target=ids, owner=st.sampled_from(OWNERS), model=st.sampled_from(MODELS), fresh=st.booleans(), first=st.booleans())
    def submit(self, owner: str, model: bytes, fresh: bool, first: bool) -> object:
        for content in (model, DATA) if first else ():
            self.keeper.artifacts.put_bytes(owner, content)
        wanted = [compute_sha256(content) for content in (model, DATA)]
        there = set(wanted) <= self.keeper.list_artifacts(owner)
        try:
            record = self.keeper.submit(owner, build_request(model, DATA, fresh=fresh)).record
        except InvalidRequest:
            assert not there
            return multiple()
        assert there or record.report_sha256 is not None
        ended = record.state == "succeeded"
        self.jobs[record.id] = ModelJob(owner, model, ended=ended, report=record.report_sha256)
        return record.id

    @rule(id=ids)
    def claim(self, id: str) -> None:
        claim = self.keeper.desk.leases.claim(id, "w")
        if claim is None:
            return
        job = self.jobs[id]
        job.attempt, job.written = claim.attempt, None
        if claim.report_sha256 is not None and self.keeper.take_over(job.owner, claim.report_sha256):
            job.written = claim.report_sha256

    @rule(id=ids, count=st.integers(0, 2))
    def write_results(self, id: str, count: int) -> None:
        job = self.jobs.get(id)
        if job is not None and job.attempt is not None:
            job.written = self.keeper.write_results(job.owner, job.model.decode(), COUNTEREXAMPLES[:count])

    @rule(id=ids, well=st.booleans())
    def finish(self, id: str, well: bool) -> None:
        job = self.jobs.get(id)
        if job is None or job.attempt is None or job.ended or (well and job.written is None):
            return
        leases = self.keeper.desk.leases
        if well:
            done = leases.finish(id, job.attempt, "succeeded", report_sha256=job.written)
        else:
            done = leases.finish(id, job.attempt, "failed", problem=PROBLEM)
        if done:
            job.ended, job.report = True, job.written if well else None

    @rule(id=ids)
    def cancel(self, id: str) -> None:
        job = self.jobs.get(id)
        if job is not None and not job.ended and job.attempt is None:
            self.keeper.desk.cancel(id, job.owner)
            job.ended = True

    @rule(id=ids)
    def lose_worker(self, id: str) -> None:
        self.keeper.desk.expire(id)
        self.keeper.desk.leases.sweep()
        for name, job in self.jobs.items():
            if not job.ended and self.keeper.desk.get(name, job.owner).state != "running":
                job.attempt = job.written = None
                job.ended = self.keeper.desk.get(name, job.owner).state == "quarantined"

    @rule(id=ids, other=st.booleans())
    def remove_audit(self, id: str, other: bool) -> None:
        job = self.jobs.get(id)
        owner = OWNERS[0] if job is None else next(name for name in OWNERS if (name != job.owner) == other)
        try:
            self.keeper.collector.remove_job(owner, id)
        except NotFound:
            assert job is None or other
        except Conflict:
            assert job is not None
            assert not job.ended
        else:
            assert job is not None
            assert job.ended
            del self.jobs[id]

    @rule(owner=st.sampled_from(OWNERS), content=st.sampled_from([*MODELS, *COUNTEREXAMPLES, make_report("model 0", [])]))
    def remove_artifact(self, owner: str, content: bytes) -> None:
        sha256, before = compute_sha256(content), self.keeper.list_artifacts(owner)
        try:
            self.keeper.collector.remove_artifact(owner, sha256)
        except NotFound:
            assert sha256 not in before
        except Conflict:
            assert sha256 in before
        else:
            assert self.keeper.list_artifacts(owner) == before - {sha256}

    @rule(share=st.sampled_from([0.4, 1.1, 3.0, 11.0]))
    def let_pass(self, share: float) -> None:
        self.keeper.let_pass(share * GRACE_S)

    @rule(keep=st.booleans())
    def collect(self, keep: bool) -> None:
        self.keeper.collector.collect(Lifetimes(0 if keep else RETENTION_S, GRACE_S, GRACE_S))
        kept = {id for id, job in self.jobs.items() if self.keeper.desk.run(self.keeper.desk.queue.get(id, job.owner))}
        assert all(self.jobs[id].ended for id in self.jobs.keys() - kept)
        assert not keep or kept == self.jobs.keys()
        self.jobs = {id: self.jobs[id] for id in kept}

    @invariant()
    def every_job_has_its_files(self) -> None:
        for job in self.jobs.values():
            if not job.ended:
                for content in (job.model, DATA):
                    assert self.keeper.read(job.owner, compute_sha256(content)) == content
            elif job.report is not None:
                assert self.keeper.holds_results(job.owner, job.report)
            if job.attempt is not None and not job.ended and job.written is not None:
                assert self.keeper.holds_results(job.owner, job.written)

    def teardown(self) -> None:
        """What nothing needs is gone when everybody has ended and the grace time is over, and nothing else is."""
        for id, job in self.jobs.items():
            if not job.ended:
                if job.attempt is None:  # queued: it may wait for an equal one that runs
                    self.keeper.desk.cancel(id, job.owner)
                else:
                    assert self.keeper.desk.leases.finish(id, job.attempt, "failed", problem=PROBLEM)
        self.keeper.let_pass(2 * GRACE_S)
        self.keeper.collector.collect(Lifetimes(0, GRACE_S, GRACE_S))
        for owner in OWNERS:
            reports = {job.report for job in self.jobs.values() if job.owner == owner and job.report is not None}
            assert all(self.keeper.holds_results(owner, report) for report in reports)
            named = {digest for report in reports for digest in self.keeper.collector.find_results(owner, report)}
            assert self.keeper.list_artifacts(owner) == named
        assert list((self.keeper.root / ".uploads").rglob("*.part")) == []


def test_nothing_that_a_job_needs_is_ever_removed(desk: Desk) -> None:
    class Machine(KeeperMachine):
        def __init__(self) -> None:
            self.folder = tempfile.TemporaryDirectory()
            super().__init__(Keeper(desk, Path(self.folder.name) / "artifacts"))

        def teardown(self) -> None:
            try:
                super().teardown()
            finally:
                self.folder.cleanup()

    bounds = settings(max_examples=25, stateful_step_count=40, deadline=None, derandomize=True, database=None)
    run_state_machine_as_test(Machine, settings=bounds)
