"""The client against the real API: nothing is sent twice, nothing is lost on a bad line, what comes is checked."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from client.api import Client
from client.errors import AuditFailed, GaveUp, Refused, Unreachable
from client.handle import check_ended_well
from schemas.base import compute_sha256
from schemas.errors import InvalidRequest
from schemas.job import Job
from schemas.version import VERSION
from tests.gate.reports import build_policy

PASSING = build_policy({"require": {"loss_change_at_most": 1000}})


@pytest.fixture
def uploaded(client: Client) -> dict[str, object]:
    """The request for the standing files, which are uploaded."""
    return {"model": {"uri": client.upload(Path("model.onnx"))}, "data": {"uri": client.upload(Path("data.npz"))}, "fresh": True}


def submit(client: Client, request: dict[str, object], play: str = "succeed", **fields: object) -> Job:
    return client.submit(request | fields | {"labels": {"play": play}})


def test_an_audit_from_upload_to_report(client: Client, uploaded: dict[str, object]) -> None:
    job = check_ended_well(client.wait(submit(client, uploaded), 20))
    fetched = client.fetch_report(job.id)
    assert job.report is not None
    assert fetched.sha256 == job.report.sha256 == compute_sha256(fetched.content)
    assert fetched.report.subject.model.sha256 == compute_sha256(Path("model.onnx").read_bytes())
    assert client.read_about().version == VERSION


def test_a_file_that_the_server_holds_is_not_sent_again(client: Client, folder: Path) -> None:
    path = folder / "other.bin"
    path.write_bytes(b"other content")
    digest = compute_sha256(b"other content")
    assert not client.has_artifact(digest)
    uri = client.upload(path)
    assert client.has_artifact(digest)
    path.unlink()
    assert client.upload(path, digest) == uri


def test_a_download_is_what_was_uploaded(client: Client, folder: Path) -> None:
    digest = client.upload(folder / "model.onnx").rpartition(":")[2]
    client.download(digest, folder / "copy")
    assert (folder / "copy").read_bytes() == (folder / "model.onnx").read_bytes()
    with pytest.raises(Refused):
        client.download("0" * 64, folder / "nothing")


def test_waiting_tells_of_every_change_that_it_sees(client: Client, uploaded: dict[str, object]) -> None:
    seen: list[Job] = []
    job = client.wait(submit(client, uploaded, "linger"), 20, seen.append)
    assert job.state == "succeeded"
    assert any(one.progress is not None and one.progress.total == 5 for one in seen)
    assert [one.revision for one in seen] == sorted({one.revision for one in seen})


def test_waiting_has_an_end(client: Client, uploaded: dict[str, object]) -> None:
    job = submit(client, uploaded, "leave")
    with pytest.raises(GaveUp) as caught:
        client.wait(job, 0.2)
    assert caught.value.job.id == job.id
    assert client.cancel(job.id).state == "cancelled"
    with pytest.raises(Refused) as refused:
        client.cancel(job.id)
    assert refused.value.problem.status == 409


def test_a_running_audit_is_cancelled_by_its_worker(client: Client, uploaded: dict[str, object]) -> None:
    job = submit(client, uploaded, "cancel-me")
    while job.state == "queued":
        job = client.fetch_job(job.id, after=job, wait_s=5)
    assert client.cancel(job.id).cancel_requested
    job = client.wait(job, 20)
    assert job.state == "cancelled"
    with pytest.raises(AuditFailed):
        client.fetch_report(job.id)


def test_a_failed_audit_carries_its_problem(client: Client, uploaded: dict[str, object]) -> None:
    job = client.wait(submit(client, uploaded, "fail"), 20)
    with pytest.raises(AuditFailed) as caught:
        check_ended_well(job)
    assert caught.value.problem.code == "model_unreadable"
    assert len(caught.value.faults) == 2
    with pytest.raises(AuditFailed):
        client.fetch_report(job.id)


def test_a_report_that_is_not_there_yet_is_refused(client: Client, uploaded: dict[str, object]) -> None:
    with pytest.raises(Refused) as caught:
        client.fetch_report(submit(client, uploaded, "leave").id)
    assert caught.value.problem.code == "conflict"


def test_a_policy_gives_a_verdict_with_the_audit_and_afterwards(client: Client, uploaded: dict[str, object]) -> None:
    job = client.wait(submit(client, uploaded, policy=PASSING.model_dump(mode="json")), 20)
    assert client.fetch_verdict(job.id) == client.judge(PASSING, job.id)
    strict = build_policy(
        {"require": {"loss_change_at_most": 1000}},
        regression={"loss_change_ratio_at_most": 1.5},
    )
    assert client.judge(strict, job.id).outcome == "inconclusive"
    assert client.judge(strict, job.id, baseline=job.id).outcome == "pass"


def test_a_bad_request_is_refused_before_it_is_sent(client: Client) -> None:
    with pytest.raises(InvalidRequest):
        client.submit({"model": {}})


@contextmanager
def bad_line(server: str, method: bytes, dropped: int) -> Iterator[tuple[str, list[bytes]]]:
    """A line to the server that takes whole calls through and then loses the first `dropped` answers to `method`."""
    address = urlsplit(server)
    calls: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def carry(near: socket.socket) -> None:
        with near, socket.create_connection((address.hostname or "", address.port or 0)) as far:
            near.settimeout(5)
            with suppress(OSError):
                call = near.recv(2**20)
                while b"\r\n\r\n" not in call:
                    call += near.recv(2**20)
                length = int(call.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
                while len(call.partition(b"\r\n\r\n")[2]) < length:
                    call += near.recv(2**20)
                if call.startswith(method):
                    calls.append(call)
                far.sendall(call.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n", 1))
                answer = b"".join(iter(lambda: far.recv(2**16), b""))
                if not call.startswith(method) or len(calls) > dropped:
                    near.sendall(answer)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=carry, args=(listener.accept()[0],)).start()

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", calls
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def test_an_audit_whose_answer_is_lost_becomes_one_job(server: str, client: Client, uploaded: dict[str, object]) -> None:
    request = uploaded | {"search": {"seed": 77}, "labels": {"play": "leave", "line": "bad"}}
    with bad_line(server, b"POST", dropped=2) as (address, calls), Client(address) as far:
        job = far.submit(request)
    keys = [line for call in calls for line in call.split(b"\r\n") if line.lower().startswith(b"idempotency-key")]
    assert len(calls) == 3
    assert len(set(keys)) == 1
    assert client.fetch_job(job.id).labels == {"play": "leave", "line": "bad"}
    assert client.submit(request).id != job.id, "another call is another audit"


def test_a_file_is_sent_again_from_its_start_when_the_answer_is_lost(server: str, client: Client, folder: Path) -> None:
    content = bytes(range(256)) * 4096
    (folder / "large").write_bytes(content)
    with bad_line(server, b"PUT", dropped=2) as (address, calls), Client(address) as far:
        far.upload(folder / "large")
    assert len(calls) == 3
    assert all(call.endswith(content) for call in calls)
    assert client.has_artifact(compute_sha256(content))


def test_patience_ends(folder: Path) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    listener.close()
    with Client(address, patience_s=0.3) as lonely, pytest.raises(Unreachable) as caught:
        lonely.read_about()
    assert address in caught.value.faults[0].what
    assert "faultline up" in caught.value.faults[0].advice
