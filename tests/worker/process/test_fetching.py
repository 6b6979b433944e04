"""Jobs whose files lie elsewhere: fetched by the supervisor, once, and reported by digest."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import trustme
from torch import nn

from schemas.base import compute_sha256
from schemas.kinds import compute_request_digest, settle_files
from schemas.report import Report
from schemas.request import AuditRequest
from schemas.version import ENGINE_VERSION
from tests.storage.desk import OWNER
from tests.storage.valkey import RunningValkey, running_valkey
from tests.worker.audits import write_job
from tests.worker.fetching.servers import PUBLIC, SITE_ADDRESS, Names, Page, Site, make_limits, running_site
from tests.worker.process.bench import Bench, open_bench
from tests.worker.process.processes import eventually


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningValkey]:
    with running_valkey(tmp_path_factory.mktemp("store")) as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def site(folder: Path) -> Iterator[Site]:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    with running_site(authority) as running:
        yield running


@pytest.fixture(scope="module")
def bench(server: RunningValkey, folder: Path, site: Site) -> Iterator[Bench]:
    rules = make_limits(site, ca_file=folder / "ca.pem", fetch_roots=str(folder / "shared")).model_dump()
    with open_bench(server, folder, resolve=Names({PUBLIC: [SITE_ADDRESS]}), lease_s=3.0, **rules) as opened:
        yield opened


@pytest.fixture(scope="module")
def made(folder: Path) -> dict[str, bytes]:
    """Two models, and the data of both, which lie in the shared folder too."""
    shared, other = folder / "shared", folder / "other"
    shared.mkdir()
    other.mkdir()
    job, second = write_job(shared), write_job(other, nn.Linear(4, 3))
    return {"model": job.model_path.read_bytes(), "data": job.data_path.read_bytes(), "other": second.model_path.read_bytes()}


@pytest.fixture
def files(site: Site, made: dict[str, bytes]) -> dict[str, bytes]:
    """The same, with the first model on the site."""
    site.forget()
    site.pages["/model.pt"] = Page(made["model"])
    return made


def build(site: Site, folder: Path, **changes: Any) -> AuditRequest:
    fields: dict[str, Any] = {
        "model": {"uri": site.url("/model.pt?token=secret")},
        "data": {"uri": f"file://{folder}/shared/data.npz"},
        "scopes": ["model"],
        "sets": [{"norm": 2, "epsilon": [0.1]}],
        "search": {"budget_passes": 4, "random_trials": 0},
        **changes,
    }
    return AuditRequest.model_validate(fields)


def read_report(bench: Bench, job: str) -> tuple[Report, bytes]:
    digest = bench.get(job).report_sha256
    assert digest is not None
    path = bench.resources.artifacts.path(OWNER, digest)
    assert path is not None
    return Report.model_validate_json(path.read_bytes()), path.read_bytes()


def test_the_report_is_of_the_content_and_says_nothing_of_the_place(
    bench: Bench, site: Site, folder: Path, files: dict[str, bytes]
) -> None:
    job = bench.post_request(build(site, folder))
    assert bench.run(job) == "succeeded", bench.get(job).problem
    report, content = read_report(bench, job)
    digests = {name: compute_sha256(files[name]) for name in ("model", "data")}
    assert (report.subject.model.sha256, report.subject.data.sha256) == (digests["model"], digests["data"])
    assert report.subject.model.size_bytes == len(files["model"])
    assert b"secret" not in content
    assert str(site.port).encode() not in content
    assert str(folder).encode() not in content
    assert report.subject.request_digest == bench.get(job).request_digest
    # The same files by upload, by pin, and from the same places: the same job, answered by the same report.
    uploaded = build(
        site, folder, **{name: {"uri": f"artifact:sha256:{digest}"} for name, digest in digests.items()}, labels={"by": "upload"}
    )
    pinned = build(site, folder, model={"uri": site.url("/gone"), "sha256": digests["model"]}, data=uploaded.data.model_dump())
    for request in (uploaded, pinned):
        twin = bench.get(bench.post_request(request))
        assert (twin.state, twin.report_sha256) == ("succeeded", bench.get(job).report_sha256)
    again = bench.post_request(build(site, folder))
    assert bench.get(again).state == "queued"  # who knows what lies there now
    assert bench.run(again) == "succeeded"
    assert bench.get(again).report_sha256 == bench.get(job).report_sha256
    assert bench.get(again).request_digest == bench.get(job).request_digest
    assert len(site.requests) == 2


def test_changed_content_is_audited_anew(bench: Bench, site: Site, folder: Path, files: dict[str, bytes]) -> None:
    first = bench.post_request(build(site, folder))
    assert bench.run(first) == "succeeded"
    site.pages["/model.pt"] = Page(files["other"])
    second = bench.post_request(build(site, folder))
    assert bench.run(second) == "succeeded"
    reports = [read_report(bench, job)[0] for job in (first, second)]
    assert [report.subject.model.sha256 for report in reports] == [compute_sha256(files[name]) for name in ("model", "other")]


def test_what_cannot_be_fetched_ends_the_job_with_one_problem(
    bench: Bench, site: Site, folder: Path, files: dict[str, bytes]
) -> None:
    request = build(
        site,
        folder,
        model={"uri": site.url("/missing")},
        data={"uri": f"file://{folder}/shared/missing.npz"},
        evaluate_on={"uri": "https://10.0.0.1/"},
    )
    job = bench.post_request(request)
    assert bench.run(job) == "failed"
    problem = bench.get(job).problem
    assert problem is not None
    assert problem["code"] in {"fetch_failed", "fetch_refused"}
    assert {error["where"] for error in problem["errors"]} == {"/model/uri", "/data/uri", "/evaluate_on/uri"}
    assert bench.get(job).attempt == 1


def test_a_later_attempt_reads_the_same_files(bench: Bench, site: Site, folder: Path, files: dict[str, bytes]) -> None:
    job = bench.post_request(build(site, folder, data={"uri": site.url("/late")}))
    bench.resources.leases.claim(job, "one that dies")
    bench.resources.leases.note_files(job, 1, {"model": compute_sha256(files["model"])})
    bench.desk.expire(job)
    site.pages["/model.pt"] = Page(b"another model")
    site.pages["/late"] = Page(files["data"])
    assert bench.run(job) == "succeeded"
    report, _ = read_report(bench, job)
    assert report.subject.model.sha256 == compute_sha256(files["model"])
    assert [path for _, path, _, _ in site.requests] == ["/late"]


def test_a_file_that_changes_between_attempts_and_is_gone_here_ends_the_job(
    bench: Bench, site: Site, folder: Path, files: dict[str, bytes]
) -> None:
    job = bench.post_request(build(site, folder))
    bench.resources.leases.claim(job, "one that dies")
    bench.resources.leases.note_files(job, 1, {"model": "0" * 64})
    bench.desk.expire(job)
    assert bench.run(job) == "failed"
    problem = bench.get(job).problem
    assert problem is not None
    assert "has not the sha256" in problem["detail"]


def hold(release: threading.Event) -> Page:
    def write(_: BaseHTTPRequestHandler) -> None:
        release.wait(30)

    return Page(headers={"content-length": "9"}, write=write)


@pytest.mark.parametrize(("how", "outcome"), [("cancel", "cancelled"), ("lose", "lost")])
def test_an_interruption_ends_the_fetch(
    how: str, outcome: str, bench: Bench, site: Site, folder: Path, files: dict[str, bytes]
) -> None:
    release = threading.Event()
    site.pages["/model.pt"] = hold(release)
    job = bench.post_request(build(site, folder))
    running = bench.run_aside(job)
    eventually(lambda: len(site.requests) == 1)
    if how == "cancel":
        bench.desk.cancel(job)
    else:
        bench.desk.expire(job)
        bench.resources.leases.sweep()
    began = time.monotonic()
    assert running.end() == outcome
    assert time.monotonic() - began < 5
    release.set()
    if how == "lose":
        bench.desk.cancel(job)  # it would be the next test's job


def test_beats_go_on_and_progress_is_told_while_a_file_is_fetched(
    bench: Bench, site: Site, folder: Path, files: dict[str, bytes]
) -> None:
    def write(handler: BaseHTTPRequestHandler) -> None:
        for _ in range(60):  # longer than a lease
            handler.wfile.write(bytes(2**17))
            time.sleep(0.06)

    site.pages["/model.pt"] = Page(headers={"content-length": str(60 * 2**17)}, write=write)
    job = bench.post_request(build(site, folder))
    running = bench.run_aside(job)
    phases: set[str] = set()

    def has_told() -> bool:
        progress = bench.get(job).progress
        phases.update([progress["phase"]] if progress else [])
        return "fetch" in phases

    eventually(has_told)
    assert running.end() == "failed"
    assert bench.get(job).attempt == 1
    problem = bench.get(job).problem
    assert problem is not None
    assert problem["code"] == "model_unreadable"


def test_two_equal_jobs_by_different_places_run_once(bench: Bench, site: Site, folder: Path, files: dict[str, bytes]) -> None:
    """The second learns only by fetching that it equals the first, which runs; it waits and takes the report."""
    search = {"budget_passes": 5, "random_trials": 0}
    first = bench.post_request(build(site, folder, search=search))
    site.pages["/elsewhere"] = Page(files["model"])
    second = bench.post_request(build(site, folder, search=search, model={"uri": site.url("/elsewhere")}))
    leases = bench.resources.leases
    assert bench.resources.warm.wait(60)  # before the first one's lease begins
    assert leases.claim(first, "another worker") is not None
    digests = {name: compute_sha256(files[name]) for name in ("model", "data")}
    settled = compute_request_digest(settle_files(build(site, folder, search=search), digests), ENGINE_VERSION)
    assert leases.note_files(first, 1, digests, settled).answer == "ok"
    assert bench.run(second) == "waits"
    assert (bench.get(second).state, bench.get(second).request_digest) == ("queued", settled)
    assert leases.claim(second, "w") is None  # its twin runs
    bench.desk.expire(first)
    assert second in leases.sweep() or second in leases.sweep()
    assert bench.run(first) == "succeeded"
    assert bench.run(second) == "succeeded"
    assert bench.get(first).report_sha256 == bench.get(second).report_sha256
    assert bench.desk.client.hget(f"faultline:job:{second}", "tries") == b"1"
    assert json.loads(bench.desk.client.hget(f"faultline:job:{second}", "files") or b"{}") == digests


POLICY: dict[str, Any] = {
    "name": "gate",
    "conditions": [{"id": "loss", "where": {"scope": "model"}, "require": {"loss_change_at_most": 0.0}}],
}


def test_a_policy_may_lie_elsewhere_too(bench: Bench, site: Site, folder: Path, files: dict[str, bytes]) -> None:
    search = {"budget_passes": 6, "random_trials": 0}
    places = {name: {"uri": site.url(f"/{name}"), "sha256": compute_sha256(files[name])} for name in ("model", "data")}
    site.pages |= {f"/{name}": Page(files[name]) for name in ("model", "data")}
    site.pages["/policy.json"] = Page(json.dumps(POLICY).encode())
    first = bench.post_request(build(site, folder, **places, search=search, policy={"uri": site.url("/policy.json")}))
    assert bench.run(first) == "succeeded"
    assert bench.get(first).verdict in {"fail", "inconclusive"}
    assert bench.get(first).files["policy"] == compute_sha256(json.dumps(POLICY).encode())
    assert "/policy.json" in [path for _, path, _, _ in site.requests]
    site.requests.clear()
    # The report is there; only the policy, which may have changed, is fetched and judges it.
    second = bench.post_request(build(site, folder, **places, search=search, policy={"uri": site.url("/policy.json")}))
    assert bench.get(second).state == "queued"
    lenient = POLICY | {"conditions": [POLICY["conditions"][0] | {"require": {"loss_change_at_most": 1e9}}]}
    site.pages["/policy.json"] = Page(json.dumps(lenient).encode())
    assert bench.run(second) == "succeeded"
    assert bench.get(second).report_sha256 == bench.get(first).report_sha256
    assert bench.get(second).request_digest == bench.get(first).request_digest
    assert bench.get(second).files["policy"] != bench.get(first).files["policy"]
    assert [path for _, path, _, _ in site.requests] == ["/policy.json"]


@pytest.mark.parametrize("content", [b"name: gate", b"{}", b'{"name": "gate", "conditions": [{"id": 1}]}', bytes(2**21)])
def test_a_file_that_is_no_policy_ends_the_job(
    content: bytes, bench: Bench, site: Site, folder: Path, files: dict[str, bytes]
) -> None:
    site.pages["/policy.json"] = Page(content)
    job = bench.post_request(build(site, folder, policy={"uri": site.url("/policy.json")}))
    assert bench.run(job) == "failed"
    problem = bench.get(job).problem
    assert problem is not None
    assert problem["code"] == "fetch_failed"
    assert {error["where"] for error in problem["errors"]} == {"/policy/uri"}


def test_a_deadline_ends_the_fetch(bench: Bench, site: Site, folder: Path, files: dict[str, bytes]) -> None:
    release = threading.Event()
    site.pages["/model.pt"] = hold(release)
    assert bench.resources.warm.wait(60)
    job = bench.post_request(build(site, folder))
    bench.desk.client.hset(f"faultline:job:{job}", "deadline_at", int(time.time() * 1e6) + 1_500_000)
    began = time.monotonic()
    assert bench.run(job) == "failed"
    assert time.monotonic() - began < 5
    problem = bench.get(job).problem
    assert problem is not None
    assert problem["errors"][0]["where"] == "/deadline_s"
    release.set()
