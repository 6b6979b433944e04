"""The transition of a job whose files become known: `files.lua`."""

import json

from schemas.base import compute_sha256
from tests.storage.desk import REPORT, Desk

FILES = {"model": "a" * 64, "data": "b" * 64}
DIGEST = compute_sha256(b"the request with these files")


def test_what_was_fetched_is_told_to_the_next_attempt(desk: Desk) -> None:
    id = desk.accept()
    attempt = desk.claim(id).attempt
    revision = desk.get(id).revision
    assert desk.leases.note_files(id, attempt, {"model": "a" * 64}) == ("ok", None)
    assert desk.leases.note_files(id, attempt, FILES) == ("ok", None)
    assert desk.get(id).revision == revision
    desk.expire(id)
    assert desk.claim(id).files == FILES


def test_a_fenced_attempt_changes_nothing(desk: Desk) -> None:
    id = desk.accept()
    attempt = desk.claim(id).attempt
    desk.expire(id)
    desk.claim(id)
    assert desk.leases.note_files(id, attempt, FILES, DIGEST).answer == "lost"
    assert desk.leases.note_files("0" * 29, 1, FILES, DIGEST).answer == "lost"
    assert desk.get(id).request_digest != DIGEST
    assert desk.client.hget(f"faultline:job:{id}", "files") is None


def test_the_job_becomes_that_of_its_contents_once(desk: Desk) -> None:
    id = desk.accept()
    attempt = desk.claim(id).attempt
    revision = desk.get(id).revision
    for _ in range(2):  # the reply may be lost and the call repeated
        assert desk.leases.note_files(id, attempt, FILES, DIGEST) == ("ok", None)
        assert (desk.get(id).request_digest, desk.get(id).revision) == (DIGEST, revision + 1)
    assert desk.leases.finish(id, attempt, "succeeded", report_sha256=REPORT)
    assert desk.client.get(f"faultline:report:{DIGEST}:local") == REPORT.encode()
    assert desk.client.get(f"faultline:active:{DIGEST}:local") is None


def test_a_report_of_an_equal_job_is_found(desk: Desk) -> None:
    first, second = desk.accept(), desk.accept()
    for id, report in ((first, None), (second, REPORT)):
        attempt = desk.claim(id).attempt
        assert desk.leases.note_files(id, attempt, FILES, DIGEST) == ("ok", report)
        assert desk.leases.finish(id, attempt, "succeeded", report_sha256=REPORT)
    fresh = desk.submit(fresh=True).record.id
    assert desk.leases.note_files(fresh, desk.claim(fresh).attempt, FILES, DIGEST) == ("ok", None)


def test_a_job_waits_for_an_equal_one_that_runs_and_keeps_its_tries(desk: Desk) -> None:
    first, second = desk.accept(), desk.accept()
    leading = desk.claim(first).attempt
    assert desk.leases.note_files(first, leading, FILES, DIGEST).answer == "ok"
    waiting = desk.claim(second).attempt
    for _ in range(2):
        assert desk.leases.note_files(second, waiting, FILES, DIGEST).answer == "waits"
        assert desk.find_sets(second) == {"pending"}
    assert desk.leases.claim(second, "w") is None
    assert second not in desk.sweep()
    assert desk.leases.beat(second, waiting) == "lost"
    assert desk.leases.finish(first, leading, "succeeded", report_sha256=REPORT)
    assert desk.sweep() == [second]
    claim = desk.claim(second)
    assert (claim.report_sha256, claim.files) == (REPORT, FILES)
    assert desk.client.hget(f"faultline:job:{second}", "tries") == b"1"


def test_a_waiting_job_goes_on_when_the_equal_one_is_lost(desk: Desk) -> None:
    first, second = desk.accept(), desk.accept()
    assert desk.leases.note_files(first, desk.claim(first).attempt, FILES, DIGEST).answer == "ok"
    assert desk.leases.note_files(second, desk.claim(second).attempt, FILES, DIGEST).answer == "waits"
    desk.expire(first)
    assert set(desk.sweep()) == {first, second}
    assert desk.claim(second).report_sha256 is None


def test_a_cancelled_job_ends_instead_of_waiting(desk: Desk) -> None:
    first, second = desk.accept(), desk.accept()
    assert desk.leases.note_files(first, desk.claim(first).attempt, FILES, DIGEST).answer == "ok"
    attempt = desk.claim(second).attempt
    desk.cancel(second)
    assert desk.leases.note_files(second, attempt, FILES, DIGEST).answer == "waits"
    assert desk.get(second).state == "cancelled"
    assert desk.client.scard(f"faultline:waiting:{DIGEST}:local") == 0


def test_jobs_that_waited_under_the_digest_of_the_place_are_woken(desk: Desk) -> None:
    first, second = desk.accept("same"), desk.accept("same")
    attempt = desk.claim(first).attempt
    assert desk.leases.claim(second, "w") is None  # equal as posted
    assert desk.leases.note_files(first, attempt, FILES, DIGEST).answer == "ok"
    assert desk.sweep() == [second]
    assert json.loads(desk.get(second).request)["model"]["uri"] == json.loads(desk.get(first).request)["model"]["uri"]
    assert desk.claim(second).report_sha256 is None
