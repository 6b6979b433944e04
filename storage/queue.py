"""JobQueue: the store as the API sees it. Nothing here runs a job; storage/leases.py does."""

import json
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import redis.asyncio

from schemas.base import canonical_bytes, compute_sha256
from schemas.errors import Conflict, Fault, IdempotencyMismatch, InvalidRequest, QuotaExceeded
from schemas.job import TERMINAL_STATES, JobKind
from schemas.kinds import JobRequest
from schemas.verdict import Outcome
from storage.changes import ChangeFeed
from storage.connection import reaching_store
from storage.endings import describe_cancelled
from storage.gauges import StoreGauges, read_gauges
from storage.glances import Glance, Glances
from storage.placement import ANYWHERE, Placement
from storage.records import JOB_ID, JobRecord, pair_fields, read_record
from storage.scripts import KEY_PREFIX, ScriptName, load_script

KEY_LIFE_S: Final = 24 * 3600
REPEAT_LIFE_S: Final = 60
"""For how long a call without an Idempotency-Key is known to be a repetition of itself."""
RETRY_AFTER_S: Final = 10
"""When to ask again for room: nobody knows when a job ends."""
STATES: Final = ("queued", "running", *sorted(TERMINAL_STATES))


@dataclass(frozen=True)
class Accepted:
    """What became of a request. `reused`: it is answered with the report of an equal audit, its verdict is still to be given."""

    record: JobRecord
    created: bool
    reused: bool


class JobQueue:
    """Every call may be repeated when its reply was lost; see docs/architecture/jobs.md.

    `client` must give bytes. Raises Unavailable when the store is out of reach for longer than the client tries.
    """

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client
        self._glances = Glances(client)
        self._feed = ChangeFeed(client, f"{KEY_PREFIX}changes")
        self._scripts = {name: client.register_script(load_script(name)) for name in NAMES}

    async def accept(
        self,
        request: JobRequest,
        owner: str,
        request_digest: str,
        idempotency_key: str | None,
        body_sha256: str,
        kind: JobKind = "audit",
        traceparent: str | None = None,
        placement: Placement = ANYWHERE,
    ) -> Accepted:
        """Return the job that the request became now, or the one that the same key and body made before.

        Raises:
            IdempotencyMismatch: when the key came with another body in the last 24 hours.
            QuotaExceeded: when the owner has as many jobs queued and running as it may.
            Unavailable: when the store is out of reach.

        """
        nonce = _make_nonce()
        named = compute_sha256(canonical_bytes([owner, idempotency_key])) if idempotency_key is not None else nonce
        life_ms = 1000 * (KEY_LIFE_S if idempotency_key is not None else REPEAT_LIFE_S)
        labels = canonical_bytes(dict(request.labels))
        fresh = 1 if request.fresh else 0
        deadline = "" if placement.deadline_s is None else round(placement.deadline_s * 1e6)
        reply = await self._run(
            *("accept", nonce, owner, canonical_bytes(request), request_digest, labels, fresh, named, life_ms, body_sha256, kind),
            *(placement.device, placement.priority, placement.max_running, deadline, placement.max_live, traceparent or ""),
        )
        if reply[0] == b"mismatch":
            raise IdempotencyMismatch(_describe_mismatch(idempotency_key))
        if reply[0] == b"full":
            raise QuotaExceeded(_describe_full(placement.max_live), retry_after_s=RETRY_AFTER_S)
        record = read_record(reply[1].decode(), pair_fields(reply[2]))
        return Accepted(record, created=reply[0] == b"created", reused=record.reused)

    async def get(self, id: str, owner: str) -> JobRecord | None:
        """Return the owner's job, None if it has none of this id."""
        fields = pair_fields(await self._run("look", id, owner))
        return read_record(id, fields) if fields else None

    async def glance(self, id: str) -> Glance | None:
        """Return whose job this is and at which revision, None without one; calls at the same time share a round trip."""
        return await self._glances.look(id)

    async def page(self, owner: str, limit: int, cursor: str | None, state: str | None) -> tuple[list[JobRecord], str | None]:
        """Return up to `limit` of the owner's jobs, newest first, and the cursor of the next page if there is one.

        Raises:
            InvalidRequest: when the cursor is none that a page gave.
            Unavailable: when the store is out of reach.

        """
        if cursor is not None and not JOB_ID.fullmatch(cursor):
            fault = Fault("the cursor is not one that a page gave", "query: cursor", "`next` of a page", cursor[:100])
            raise InvalidRequest(fault)
        more, *items = await self._run("page", owner, state or "all", cursor or "", limit)
        records = [read_record(id.decode(), pair_fields(fields)) for id, fields in zip(items[::2], items[1::2], strict=True)]
        return records, records[-1].id if more == b"1" else None

    async def cancel(self, id: str, owner: str) -> JobRecord | None:
        """Return the job, cancelled at once if nobody runs it, else with its worker asked to stop; None if the owner has none.

        Raises:
            Conflict: when it has ended.
            Unavailable: when the store is out of reach.

        """
        return _read_outcome(id, await self._run("cancel", id, owner, _make_nonce(), describe_cancelled()))

    async def purge(self, id: str, owner: str) -> None:
        """Remove the owner's job, if it has ended; what it leaves on the disk is for the collector.

        Raises:
            Unavailable: when the store is out of reach.

        """
        await self._run("purge", id, owner, "")

    async def set_verdict(self, id: str, owner: str, verdict: Outcome) -> JobRecord | None:
        """Return the job, answered with an earlier report, with its verdict noted; None if the owner has none of this id.

        Raises:
            Conflict: when it has not succeeded or has another verdict.
            Unavailable: when the store is out of reach.

        """
        return _read_outcome(id, await self._run("verdict", id, owner, verdict))

    async def wait_for_change(self, id: str, revision: int, timeout_s: float) -> bool:
        """Wait until the job's revision is another than `revision`; False when time ran out before."""

        async def has_changed() -> bool:
            with reaching_store():
                found = await self._client.hget(f"{KEY_PREFIX}job:{id}", "revision")
            return found is None or int(found) != revision

        return await self._feed.wait(id, has_changed, timeout_s)

    async def find_next_delivery(self, id: str) -> datetime | None:
        """Return when the job's webhook is told next, None when it is not in the outbox."""
        with reaching_store():
            score = await self._client.zscore(f"{KEY_PREFIX}outbox", id)
        return None if score is None else datetime.fromtimestamp(float(score) / 1e6, UTC)

    async def ping(self) -> None:
        """Return if the store answers."""
        with reaching_store():
            await self._client.ping()

    async def counts(self) -> dict[str, int]:
        """Return how many jobs of all owners are in each state."""
        with reaching_store():
            fields = await self._client.hgetall(f"{KEY_PREFIX}counts")
        return {state: int(fields.get(state.encode(), 0)) for state in STATES}

    async def read_gauges(self, device: str) -> StoreGauges:
        """Return how full the store is, over all owners, and what waits for a class of device."""
        return await read_gauges(self._client, STATES, device)

    async def workers(self) -> list[dict[str, bool]]:
        """Return, for each worker that has said lately that it takes jobs, which layers confine its audits."""
        return [json.loads(sandbox) for sandbox in await self._run("workers")]

    async def close(self) -> None:
        """Stop listening for changes; the client stays open."""
        await self._feed.close()

    async def _run(self, name: ScriptName, *arguments: str | bytes | int) -> Any:
        with reaching_store():
            return await self._scripts[name](keys=[KEY_PREFIX], args=arguments)


NAMES: Final[tuple[ScriptName, ...]] = ("accept", "look", "cancel", "verdict", "page", "purge", "workers")


def _make_nonce() -> str:
    """Return 80 random bits in 16 characters that sort like the bits."""
    bits = secrets.randbits(80)
    return "".join("0123456789abcdefghijklmnopqrstuv"[bits >> shift & 31] for shift in range(75, -1, -5))


def _read_outcome(id: str, reply: list[Any]) -> JobRecord | None:
    if reply[0] == b"missing":
        return None
    if reply[0] == b"newer":
        raise Conflict(Fault("the audit was made by a newer version", id, advice="send this to a service of that version"))
    record = read_record(id, pair_fields(reply[1]))
    if reply[0] == b"ended":
        raise Conflict(Fault(f"the audit is {record.state}", id, "an audit in a state that allows this", record.state))
    return record


def _describe_full(max_live: int) -> Fault:
    return Fault(
        "the tenant has as many jobs queued and running as it may",
        expected=f"fewer than {max_live}",
        got=f"{max_live} or more",
        advice="wait until some have ended, or cancel them",
    )


def _describe_mismatch(idempotency_key: str | None) -> Fault:
    return Fault(
        "the Idempotency-Key was used with another request in the last 24 hours",
        where="header: Idempotency-Key",
        expected="the same body as before",
        got=f"another body under the key {idempotency_key}",
        advice="use a new key for a new request",
    )
