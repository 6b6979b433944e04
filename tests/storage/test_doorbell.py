"""The doorbell: one message that a worker's Celery understands, and no harm when the broker is away."""

import json
import threading
import time
from collections.abc import Iterator

import pytest
from celery import Celery
from celery.contrib.testing.worker import start_worker

from storage.doorbell import TASK_NAME, Doorbell, name_queue
from tests.storage.valkey import RunningValkey


@pytest.fixture
def doorbell(valkey: RunningValkey) -> Iterator[Doorbell]:
    opened = Doorbell(valkey.redis_url)
    yield opened
    opened.close()


def read_messages(server: RunningValkey, device: str = "cpu") -> list[dict[str, str]]:
    with server.connect() as client:
        return [json.loads(message)["headers"] for message in client.lrange(name_queue(device), 0, -1)]


def test_a_ring_is_one_message_that_names_the_job(valkey: RunningValkey, doorbell: Doorbell) -> None:
    assert doorbell.ring("job-1")
    assert doorbell.ring("job-2")
    assert [(message["task"], message["argsrepr"]) for message in read_messages(valkey)] == [
        (TASK_NAME, "['job-2']"), (TASK_NAME, "['job-1']")
    ]  # fmt: skip


def test_either_spelling_of_the_address_rings(valkey: RunningValkey) -> None:
    for url in (valkey.redis_url, valkey.broker_url):
        bell = Doorbell(url)
        assert bell.ring("job")
        bell.close()
    assert len(read_messages(valkey)) == 2


def test_queues_are_apart(valkey: RunningValkey, doorbell: Doorbell) -> None:
    assert doorbell.ring("job", "cuda")
    assert read_messages(valkey) == []
    assert [message["argsrepr"] for message in read_messages(valkey, "cuda")] == ["['job']"]


def test_threads_may_share_a_doorbell(valkey: RunningValkey, doorbell: Doorbell) -> None:
    threads = [threading.Thread(target=doorbell.ring, args=(f"job-{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {message["argsrepr"] for message in read_messages(valkey)} == {f"['job-{number}']" for number in range(8)}


def test_a_broker_that_is_away_is_told_quickly_and_rings_again_when_it_is_back(valkey: RunningValkey, doorbell: Doorbell) -> None:
    assert doorbell.ring("before")
    valkey.kill()
    started = time.monotonic()
    assert not doorbell.ring("lost")
    assert time.monotonic() - started < 5
    valkey.start()
    assert doorbell.ring("after")
    assert [message["argsrepr"] for message in read_messages(valkey)] == ["['after']", "['before']"]


def test_a_worker_gets_the_job_id(valkey: RunningValkey, doorbell: Doorbell) -> None:
    app = Celery("worker", broker=valkey.broker_url, set_as_current=False)
    app.conf.update(task_default_queue=name_queue("cpu"), worker_hijack_root_logger=False)
    heard: list[str] = []
    rung = threading.Event()

    def run_audit(job_id: str) -> None:
        heard.append(job_id)
        rung.set()

    app.task(name=TASK_NAME)(run_audit)

    with start_worker(app, pool="solo", perform_ping_check=False, shutdown_timeout=30):
        assert doorbell.ring("job")
        assert rung.wait(20)
    assert heard == ["job"]
    app.close()
