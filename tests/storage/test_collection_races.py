"""Clients, workers, deletions and the collector at once, in threads with pauses that a seed chooses."""

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from schemas.base import compute_sha256
from schemas.errors import Conflict, InvalidRequest, NotFound
from storage import collection
from storage.collection import Lifetimes
from storage.references import JobTrace, Needs, References
from tests.storage.desk import PROBLEM, open_desk
from tests.storage.keeping import Keeper, build_request
from tests.storage.valkey import RunningValkey

OWNER, DATA = "acme", b"data"
MODELS = [f"model {i}".encode() for i in range(3)]
GRACE_S, SECONDS, CLIENTS = 0.03, 4.0, 4


class SlowReferences(References):
    """Takes its time between looking through the jobs and what follows: the gap that a race would need."""

    def __init__(self, references: References, chance: random.Random) -> None:
        self.__dict__ = references.__dict__
        self._chance = chance

    def add_up(self, jobs: "object") -> dict[str, Needs]:
        found: list[JobTrace] = list(jobs)  # type: ignore[call-overload]
        time.sleep(self._chance.uniform(0, 0.06))
        return super().add_up(found)


class Scene:
    """What the threads share: what they found wrong, and how often each thing happened."""

    def __init__(self) -> None:
        self.over = time.monotonic() + SECONDS
        self.wrong: list[str] = []
        self.done: dict[str, int] = {}

    def count(self, what: str, number: int = 1) -> None:
        self.done[what] = self.done.get(what, 0) + number

    def run(self, act: Callable[[], None]) -> None:
        try:
            while time.monotonic() < self.over and not self.wrong:
                act()
        except Exception as error:
            self.wrong.append(repr(error))
            raise

    def check(self, holds: object, what: str) -> None:
        if not holds:
            self.wrong.append(what)


def audit_once(keeper: Keeper, scene: Scene, chance: random.Random) -> None:
    """Upload, submit, audit, look at the results, and perhaps delete them, as slowly as it happens to be."""

    def pause() -> None:
        time.sleep(chance.choice([0, 0, chance.uniform(0, 3 * GRACE_S)]))

    model = chance.choice(MODELS)
    wanted = {compute_sha256(content): content for content in (model, DATA)}
    for digest, content in wanted.items():
        if keeper.artifacts.touch(OWNER, digest) is None or chance.random() < 0.3:
            assert keeper.artifacts.put_bytes(OWNER, content) == digest
    pause()
    try:
        record = keeper.submit(OWNER, build_request(model, DATA, fresh=chance.random() < 0.6)).record
    except InvalidRequest:
        scene.count("refused")
        return
    if record.report_sha256 is not None:
        scene.count("reused")
        scene.check(keeper.holds_results(OWNER, record.report_sha256), "a reused report is not whole")
    else:
        pause()
        claim = keeper.desk.leases.claim(record.id, "w")
        while claim is None:
            time.sleep(0.002)
            claim = keeper.desk.leases.claim(record.id, "w")
        scene.check(all(keeper.read(OWNER, digest) == content for digest, content in wanted.items()), "inputs are gone")
        pause()
        report = claim.report_sha256 if claim.report_sha256 and keeper.take_over(OWNER, claim.report_sha256) else None
        if report is None:
            report = keeper.write_results(OWNER, model.decode(), [model + b" a", b"shared"][: chance.randrange(3)])
        pause()
        scene.check(all(keeper.read(OWNER, digest) == content for digest, content in wanted.items()), "inputs are gone")
        assert keeper.desk.leases.finish(record.id, claim.attempt, "succeeded", report_sha256=report)
        scene.check(keeper.holds_results(OWNER, report), "a report is not whole")
        scene.count("audited")
        pause()
        scene.check(keeper.holds_results(OWNER, report), "a kept report is not whole")
    if chance.random() < 0.7:
        keeper.collector.remove_job(OWNER, record.id)
        scene.count("deleted")


def delete_once(keeper: Keeper, scene: Scene, chance: random.Random) -> None:
    content = chance.choice([*MODELS, DATA, b"shared", b"model 1 a"])
    try:
        keeper.collector.remove_artifact(OWNER, compute_sha256(content))
        scene.count("removed")
    except (Conflict, NotFound):
        pass
    time.sleep(chance.uniform(0, 0.05))


def collect_once(keeper: Keeper, scene: Scene, chance: random.Random) -> None:
    scene.count("collected", keeper.collector.collect(Lifetimes(0, GRACE_S, 60)).artifacts)
    time.sleep(chance.uniform(0, 0.02))


@pytest.mark.parametrize("seed", [0])
def test_whatever_runs_at_once_no_job_misses_a_file(
    shared_valkey: RunningValkey, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collection, "SKEW_S", GRACE_S)
    scene, root = Scene(), tmp_path / "artifacts"

    def run(act: Callable[[Keeper, Scene, random.Random], None], own_seed: int) -> None:
        chance = random.Random(own_seed)
        with open_desk(shared_valkey) as desk:
            keeper = Keeper(desk, root)
            keeper.collector._references = SlowReferences(keeper.collector._references, chance)
            scene.run(lambda: act(keeper, scene, chance))

    with open_desk(shared_valkey) as desk:
        desk.client.flushall()
    acts = [audit_once] * CLIENTS + [delete_once, collect_once, collect_once]
    threads = [threading.Thread(target=run, args=(act, 100 * seed + i)) for i, act in enumerate(acts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert scene.wrong == []
    for what in ("audited", "reused", "deleted", "collected"):
        assert scene.done.get(what, 0) > 0, scene.done
    check_all_that_is_left(shared_valkey, root)


def check_all_that_is_left(server: RunningValkey, root: Path) -> None:
    """Once everybody has gone, exactly the results of the audits that are kept are there."""
    with open_desk(server) as desk:
        keeper = Keeper(desk, root)
        for id in desk.list_set(f"faultline:index:queued:{OWNER}"):
            assert desk.leases.finish(id, desk.claim(id).attempt, "failed", problem=PROBLEM)
        time.sleep(3 * GRACE_S)
        keeper.collector.collect(Lifetimes(0, GRACE_S, 60))
        ids = desk.list_set(f"faultline:index:succeeded:{OWNER}")
        reports = {desk.get(id, OWNER).report_sha256 or "" for id in ids}
        assert all(keeper.holds_results(OWNER, report) for report in reports)
        assert keeper.list_artifacts(OWNER) == {
            digest for report in reports for digest in keeper.collector.find_results(OWNER, report)
        }
