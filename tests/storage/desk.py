"""Both sides of one store for tests that are not asynchronous themselves."""

import asyncio
import itertools
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar, cast

import redis
import redis.asyncio

from schemas.base import canonical_bytes, compute_sha256
from schemas.request import AuditRequest
from schemas.verdict import Outcome
from storage.leases import Claim, Leases
from storage.placement import Placement
from storage.queue import Accepted, JobQueue
from storage.records import JobRecord

T = TypeVar("T")
OWNER = "local"
LEASE_S = 0.3
PROBLEM = {"type": "urn:faultline:problem:audit", "title": "no"}
REPORT = compute_sha256(b"a report")


def make_request(name: str = "", *, fresh: bool = False, labels: dict[str, str] | None = None) -> AuditRequest:
    model, data = (f"artifact:sha256:{compute_sha256(part.encode())}" for part in (f"model {name}", "data"))
    return AuditRequest.model_validate({"model": {"uri": model}, "data": {"uri": data}, "fresh": fresh, "labels": labels or {}})


class Reachable(Protocol):
    """A server, or something between us and it."""

    def connect(self) -> redis.Redis: ...

    def connect_async(self) -> redis.asyncio.Redis: ...


class Desk:
    """The queue and the leases over one server; the queue's calls run to their end."""

    def __init__(self, server: Reachable, runner: asyncio.Runner, client: redis.Redis, lease_s: float) -> None:
        self.server = server
        self.client = client
        self.leases = Leases(client, lease_s)
        self._runner = runner
        self._async_client = server.connect_async()
        self.queue = JobQueue(self._async_client)
        self._names = itertools.count()

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(call)

    def submit(
        self,
        name: str | None = None,
        *,
        owner: str = OWNER,
        key: str | None = None,
        fresh: bool = False,
        labels: dict[str, str] | None = None,
        placement: Placement | None = None,
    ) -> Accepted:
        """Accept a request; every call asks for another audit unless it is named."""
        request = make_request(str(next(self._names)) if name is None else name, fresh=fresh, labels=labels)
        digest = compute_sha256(request.model.uri.encode())
        body, placed = compute_sha256(canonical_bytes(request)), placement or Placement()
        return self.run(self.queue.accept(request, owner, digest, key, body, placement=placed))

    def accept(self, name: str | None = None) -> str:
        return self.submit(name).record.id

    def get(self, id: str, owner: str = OWNER) -> JobRecord:
        record = self.run(self.queue.get(id, owner))
        assert record is not None
        return record

    def cancel(self, id: str, owner: str = OWNER) -> JobRecord | None:
        return self.run(self.queue.cancel(id, owner))

    def set_verdict(self, id: str, verdict: Outcome) -> JobRecord | None:
        return self.run(self.queue.set_verdict(id, OWNER, verdict))

    def list_ids(
        self, limit: int, cursor: str | None = None, state: str | None = None, owner: str = OWNER
    ) -> tuple[list[str], str | None]:
        records, following = self.run(self.queue.page(owner, limit, cursor, state))
        return [record.id for record in records], following

    def claim(self, id: str, worker: str = "w") -> Claim:
        claim = self.leases.claim(id, worker)
        assert claim is not None
        return claim

    def succeed(self, id: str) -> None:
        assert self.leases.finish(id, self.claim(id).attempt, "succeeded", report_sha256=REPORT, verdict="pass")

    def expire(self, id: str) -> None:
        """Let the lease run out without waiting for it."""
        self.client.zadd("faultline:leases", {id: 1}, xx=True)

    def lose_worker(self, id: str) -> None:
        self.claim(id)
        self.expire(id)
        self.sweep()

    def sweep(self) -> list[str]:
        """Return the jobs whose doorbell should ring, in order."""
        return [*self.leases.sweep()]

    def find_sets(self, id: str) -> set[str]:
        return {name for name in ("pending", "leases", "quarantine") if self.client.zscore(f"faultline:{name}", id) is not None}

    def list_set(self, key: str) -> list[str]:
        ids = cast("list[bytes]", self.client.zrange(key, 0, -1))
        return [id.decode() for id in ids]

    def close(self) -> None:
        self.run(self.queue.close())
        self.run(self._async_client.aclose())


@contextmanager
def open_desk(server: Reachable, lease_s: float = 30.0) -> Iterator[Desk]:
    """Open a desk whose leases do not run out by themselves, unless a test wants that."""
    with asyncio.Runner() as runner, server.connect() as client:
        desk = Desk(server, runner, client, lease_s)
        try:
            yield desk
        finally:
            desk.close()


def wait_out_lease() -> None:
    time.sleep(LEASE_S * 1.2)
