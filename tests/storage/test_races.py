"""Several workers at once, and a store that is killed: each job is held by one, ends once, and is never forgotten."""

import asyncio
import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from schemas.base import compute_sha256
from schemas.errors import Unavailable
from storage.leases import Leases
from storage.queue import JobQueue
from tests.storage.desk import OWNER, PROBLEM, REPORT, Desk, make_request, open_desk
from tests.storage.valkey import RunningValkey

WORKERS = 8


def test_one_of_many_workers_gets_each_job(desk: Desk) -> None:
    ids = [desk.accept() for _ in range(50)]
    barrier = threading.Barrier(WORKERS)

    def claim_all(worker: int) -> list[str]:
        with desk.server.connect() as client:
            leases = Leases(client)
            barrier.wait()
            return [id for id in ids if leases.claim(id, f"w{worker}") is not None]

    with ThreadPoolExecutor(WORKERS) as pool:
        claimed = Counter(id for taken in pool.map(claim_all, range(WORKERS)) for id in taken)
    assert claimed == Counter(ids)


def test_with_leases_shorter_than_the_work_each_job_still_ends_once(desk: Desk) -> None:
    ids = [desk.accept() for _ in range(30)]

    def work(seed: int) -> list[str]:
        chance, ended = random.Random(seed), []
        with desk.server.connect() as client:
            leases = Leases(client, lease_s=0.02, max_tries=10**6)
            while client.zcard("faultline:pending") or client.zcard("faultline:leases"):
                leases.sweep()
                id = chance.choice(ids)
                claim = leases.claim(id, f"w{seed}")
                if claim is None:
                    continue
                if chance.random() < 0.3:
                    time.sleep(0.03)
                if leases.finish(id, claim.attempt, "succeeded", report_sha256=f"{seed:064x}"):
                    ended.append(id)
        return ended

    with ThreadPoolExecutor(WORKERS) as pool:
        ended = list(pool.map(work, range(WORKERS)))
    assert Counter(id for each in ended for id in each) == Counter(ids)
    for seed, each in enumerate(ended):
        assert {desk.get(id).report_sha256 for id in each} <= {f"{seed:064x}"}
    assert max(desk.get(id).attempt for id in ids) > 1


def test_whatever_was_answered_survives_the_death_of_the_store(valkey: RunningValkey) -> None:
    with open_desk(valkey) as desk:
        queued, running, released, ended, cancelled, failed = (desk.accept() for _ in range(6))
        attempts: dict[str, int] = {}
        for step in (
            lambda: attempts.update(running=desk.claim(running).attempt),
            lambda: desk.leases.beat(running, 1, {"done": 1}),
            lambda: desk.leases.release(released, desk.claim(released).attempt),
            lambda: desk.succeed(ended),
            lambda: desk.cancel(cancelled),
            lambda: desk.leases.finish(failed, desk.claim(failed).attempt, "failed", problem=PROBLEM),
            lambda: desk.submit("keyed", key="k"),
        ):
            step()
            before = [desk.get(id) for id in desk.list_ids(100)[0]]
            valkey.kill()
            valkey.start()
            assert [desk.get(id) for id in desk.list_ids(100)[0]] == before
        assert not desk.submit("keyed", key="k").created
        assert desk.leases.finish(running, attempts["running"], "succeeded", report_sha256=REPORT)
        assert desk.claim(queued).attempt == 1
        assert desk.claim(released).attempt == 2
        assert desk.run(desk.queue.counts()) == {
            "queued": 1, "running": 2, "succeeded": 2, "failed": 1, "cancelled": 1, "quarantined": 0
        }  # fmt: skip


def test_what_is_accepted_while_the_store_dies_again_and_again_is_kept(valkey: RunningValkey) -> None:
    stop = threading.Event()

    async def accept_until_stopped(seed: int) -> list[str]:
        ids: list[str] = []
        async with valkey.connect_async(retries=0) as client:
            queue = JobQueue(client)
            while not stop.is_set():
                request = make_request(f"{seed} {len(ids)}")
                try:
                    accepted = await queue.accept(request, OWNER, compute_sha256(request.model.uri.encode()), None, REPORT)
                except Unavailable:
                    await asyncio.sleep(0.01)
                    continue
                ids.append(accepted.record.id)
        return ids

    with ThreadPoolExecutor(3) as pool:
        accepting = [pool.submit(asyncio.run, accept_until_stopped(seed)) for seed in range(3)]
        for _ in range(3):
            time.sleep(0.2)
            valkey.kill()
            valkey.start()
        time.sleep(0.1)
        stop.set()
        answered = {id for each in accepting for id in each.result()}
    with open_desk(valkey) as desk:
        kept = set(desk.list_set("faultline:pending"))
    assert answered
    assert answered <= kept
