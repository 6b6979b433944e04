"""What is removed and when, one situation at a time; test_collection_model.py plays them in any order."""

import os
import threading
from pathlib import Path

import pytest

from schemas.base import compute_sha256
from schemas.errors import Conflict, InvalidRequest, NotFound, Unavailable
from storage import locks
from storage.collection import Lifetimes
from storage.locks import hold_lock
from tests.storage.desk import PROBLEM, Desk
from tests.storage.keeping import GRACE_S, Keeper, build_request

OWNER = "acme"
MODEL, DATA = b"a model", b"data"
KEEPING = Lifetimes(0, GRACE_S, GRACE_S)
RETAINING = Lifetimes(10 * GRACE_S, GRACE_S, GRACE_S)


@pytest.fixture
def keeper(desk: Desk, tmp_path: Path) -> Keeper:
    return Keeper(desk, tmp_path / "artifacts")


def submit(keeper: Keeper, model: bytes = MODEL, *, fresh: bool = False) -> str:
    for content in (model, DATA):
        keeper.artifacts.put_bytes(OWNER, content)
    return keeper.submit(OWNER, build_request(model, DATA, fresh=fresh)).record.id


def succeed(keeper: Keeper, id: str, name: str = "report", counterexamples: tuple[bytes, ...] = (b"one",)) -> str:
    attempt = keeper.desk.claim(id).attempt
    report = keeper.write_results(OWNER, name, list(counterexamples))
    assert keeper.desk.leases.finish(id, attempt, "succeeded", report_sha256=report)
    return report


def digests(*contents: bytes) -> set[str]:
    return {compute_sha256(content) for content in contents}


def test_what_nobody_needs_goes_after_the_grace_time_and_not_before(keeper: Keeper) -> None:
    keeper.artifacts.put_bytes(OWNER, MODEL)
    keeper.let_pass(GRACE_S * 0.9)
    assert keeper.collector.collect(KEEPING).artifacts == 0
    keeper.let_pass(GRACE_S * 0.2)
    collected = keeper.collector.collect(KEEPING)
    assert (collected.artifacts, collected.freed_bytes) == (1, len(MODEL))
    assert keeper.list_artifacts(OWNER) == set()
    assert [path for path in keeper.find_files() if path.name[0] != "."] == []


def test_every_use_begins_the_grace_time_anew(keeper: Keeper) -> None:
    sha256 = keeper.artifacts.put_bytes(OWNER, MODEL)
    for use in (lambda: keeper.artifacts.touch(OWNER, sha256), lambda: keeper.artifacts.put_bytes(OWNER, MODEL)):
        keeper.let_pass(GRACE_S * 0.9)
        use()
        keeper.let_pass(GRACE_S * 0.9)
        assert keeper.collector.collect(KEEPING).artifacts == 0


def test_inputs_of_a_live_job_stay_however_old_they_look(keeper: Keeper) -> None:
    id = submit(keeper)
    for path in keeper.find_files():
        os.utime(path, (0, 0))
    keeper.collector.collect(KEEPING)
    assert keeper.list_artifacts(OWNER) == digests(MODEL, DATA)
    keeper.desk.claim(id)
    keeper.collector.collect(KEEPING)
    assert keeper.list_artifacts(OWNER) == digests(MODEL, DATA)


def test_inputs_go_when_the_job_has_ended_and_its_report_stays_with_its_counterexamples(keeper: Keeper) -> None:
    report = succeed(keeper, submit(keeper))
    keeper.let_pass(2 * GRACE_S)
    keeper.collector.collect(KEEPING)
    assert keeper.list_artifacts(OWNER) == {report} | digests(b"one")


def test_results_that_are_written_and_not_yet_named_stay(keeper: Keeper) -> None:
    id = submit(keeper)
    attempt = keeper.desk.claim(id).attempt
    report = keeper.write_results(OWNER, "report", [b"one"])
    keeper.let_pass(5 * GRACE_S)
    keeper.collector.collect(KEEPING)
    assert keeper.desk.leases.finish(id, attempt, "succeeded", report_sha256=report)
    assert keeper.holds_results(OWNER, report)


def test_a_job_that_takes_over_a_report_keeps_it_when_its_first_job_is_deleted(keeper: Keeper) -> None:
    first, second = submit(keeper), submit(keeper)
    report = succeed(keeper, first)
    claim = keeper.desk.claim(second)
    assert claim.report_sha256 == report
    keeper.let_pass(2 * GRACE_S)
    assert keeper.take_over(OWNER, report)
    keeper.collector.remove_job(OWNER, first)
    keeper.let_pass(2 * GRACE_S)
    keeper.collector.collect(KEEPING)
    assert keeper.desk.leases.finish(second, claim.attempt, "succeeded", report_sha256=report)
    assert keeper.holds_results(OWNER, report)


def test_a_report_without_one_of_its_counterexamples_is_not_taken_over(keeper: Keeper) -> None:
    report = succeed(keeper, submit(keeper), counterexamples=(b"one", b"two"))
    path = keeper.artifacts.path(OWNER, compute_sha256(b"two"))
    assert path is not None
    path.unlink()
    assert not keeper.take_over(OWNER, report)


def test_a_deleted_audit_is_gone_at_once_with_what_only_it_needed(keeper: Keeper) -> None:
    first, second = submit(keeper), submit(keeper, b"another model")
    report = succeed(keeper, first, "first", (b"one", b"shared"))
    other = succeed(keeper, second, "second", (b"shared",))
    keeper.collector.remove_job(OWNER, first)
    assert keeper.list_artifacts(OWNER) == {other} | digests(b"shared", MODEL, b"another model", DATA)
    assert report not in {path.name for path in keeper.find_files()}
    assert keeper.desk.run(keeper.desk.queue.get(first, OWNER)) is None
    assert keeper.desk.list_ids(10, owner=OWNER) == ([second], None)
    assert keeper.desk.run(keeper.desk.queue.counts())["succeeded"] == 1
    with pytest.raises(NotFound):
        keeper.collector.remove_job(OWNER, first)


def test_only_an_owners_own_ended_jobs_are_deleted(keeper: Keeper) -> None:
    id = submit(keeper)
    with pytest.raises(Conflict):
        keeper.collector.remove_job(OWNER, id)
    keeper.desk.claim(id)
    with pytest.raises(Conflict):
        keeper.collector.remove_job(OWNER, id)
    with pytest.raises(NotFound):
        keeper.collector.remove_job("globex", id)


def test_an_equal_request_runs_again_when_the_report_was_deleted(keeper: Keeper) -> None:
    first = submit(keeper)
    report = succeed(keeper, first)
    assert keeper.desk.get(submit(keeper), OWNER).report_sha256 == report
    for id in keeper.desk.list_ids(10, owner=OWNER)[0]:
        keeper.collector.remove_job(OWNER, id)
    again = keeper.desk.get(submit(keeper), OWNER)
    assert (again.state, again.report_sha256) == ("queued", None)


def test_an_equal_request_runs_again_when_the_report_is_missing_on_the_disk(keeper: Keeper) -> None:
    path = keeper.artifacts.path(OWNER, succeed(keeper, submit(keeper)))
    assert path is not None
    path.unlink()
    again = keeper.desk.get(submit(keeper), OWNER)
    assert (again.state, again.report_sha256) == ("queued", None)
    assert len(keeper.desk.list_ids(10, owner=OWNER)[0]) == 2


def test_a_request_whose_file_goes_while_it_is_accepted_is_refused(keeper: Keeper) -> None:
    keeper.artifacts.put_bytes(OWNER, DATA)
    with pytest.raises(InvalidRequest) as raised:
        keeper.submit(OWNER, build_request(MODEL, DATA))
    assert [fault.where for fault in raised.value.faults] == ["/model/uri"]
    (id,) = keeper.desk.list_ids(10, owner=OWNER)[0]
    assert keeper.desk.get(id, OWNER).state == "cancelled"


def test_jobs_go_with_their_results_when_their_time_is_up(keeper: Keeper) -> None:
    report, failed, live = succeed(keeper, submit(keeper)), submit(keeper, b"bad"), submit(keeper, b"waits")
    assert keeper.desk.leases.finish(failed, keeper.desk.claim(failed).attempt, "failed", problem=PROBLEM)
    keeper.let_pass(9 * GRACE_S)
    assert keeper.collector.collect(RETAINING).jobs == 0
    keeper.let_pass(2 * GRACE_S)
    assert keeper.collector.collect(RETAINING).jobs == 2
    assert keeper.desk.list_ids(10, owner=OWNER) == ([live], None)
    assert keeper.desk.client.keys(f"faultline:report:*:{OWNER}") == []
    assert keeper.desk.leases.finish(live, keeper.desk.claim(live).attempt, "failed", problem=PROBLEM)
    keeper.let_pass(2 * GRACE_S)
    keeper.collector.collect(RETAINING)
    assert report not in keeper.list_artifacts(OWNER)


def test_a_retention_of_nothing_is_for_ever(keeper: Keeper) -> None:
    report = succeed(keeper, submit(keeper))
    keeper.let_pass(10_000 * GRACE_S)
    assert keeper.collector.collect(KEEPING).jobs == 0
    assert keeper.holds_results(OWNER, report)


def test_an_artifact_goes_on_request_unless_something_needs_it(keeper: Keeper) -> None:
    free = keeper.artifacts.put_bytes(OWNER, b"free")
    keeper.collector.remove_artifact(OWNER, free)
    with pytest.raises(NotFound):
        keeper.collector.remove_artifact(OWNER, free)
    id = submit(keeper)
    for content in (MODEL, DATA):
        with pytest.raises(Conflict, match="not ended"):
            keeper.collector.remove_artifact(OWNER, compute_sha256(content))
    report = succeed(keeper, id)
    for digest in (report, *digests(b"one")):
        with pytest.raises(Conflict, match="report"):
            keeper.collector.remove_artifact(OWNER, digest)
    keeper.collector.remove_artifact(OWNER, compute_sha256(MODEL))
    assert keeper.list_artifacts(OWNER) == {report} | digests(b"one", DATA)
    with pytest.raises(NotFound):
        keeper.collector.remove_artifact("globex", report)


def test_uploads_that_nobody_goes_on_with_go(keeper: Keeper) -> None:
    old, asked = (keeper.uploads.create(OWNER, 10, None).id for _ in range(2))
    done = keeper.uploads.create(OWNER, 0, None)
    keeper.uploads.complete(OWNER, done)
    keeper.let_pass(GRACE_S * 0.9)
    assert keeper.uploads.find(OWNER, asked) is not None
    keeper.let_pass(GRACE_S * 0.2)
    assert keeper.collector.collect(KEEPING).uploads == 2
    assert [keeper.uploads.find(OWNER, id) is None for id in (old, asked, done.id)] == [True, False, True]


def test_what_crashed_processes_left_goes(keeper: Keeper) -> None:
    for folder, name in ((".trash", "a"), (".incoming", "b"), (f".uploads/{OWNER}", "0" * 32 + ".part")):
        (keeper.root / folder).mkdir(parents=True, exist_ok=True)
        (keeper.root / folder / name).write_bytes(b"left")
    keeper.let_pass(2 * GRACE_S)
    keeper.collector.collect(KEEPING)
    assert [path for path in keeper.find_files() if path.name[0] != "."] == []


def test_a_lock_that_is_not_let_go_of_makes_the_store_unavailable(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    sha256 = keeper.artifacts.put_bytes(OWNER, MODEL)
    monkeypatch.setattr(locks, "PATIENCE_S", 0.05)
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with hold_lock(keeper.root / ".lock"):
            held.set()
            done.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(10)
    with pytest.raises(Unavailable):
        keeper.artifacts.touch(OWNER, sha256)
    done.set()
    thread.join()
    assert keeper.artifacts.touch(OWNER, sha256) == len(MODEL)
