"""What the API bears: polls and submits at fixed rates, many clients at once, a thousand long polls, memory.

`python -m benchmarks.load` starts an embedded store and two API processes on one port, stores 10,000 jobs and runs, each for
`--seconds`: polls of these jobs at 1,500 a second over 32 connections; submits at 150 a second; 200 clients that submit, poll and
list at once; 1,000 long polls that one change each ends. `--minutes 10` adds mixed load with the resident memory at each tenth.
Everything, this program included, shares the machine, so its load is printed too. Exits with 1 when a bar is missed.
"""

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.http_load import Connection, Latencies, load_closed, load_openly, prepare
from schemas.base import compute_sha256
from storage.connection import connect
from storage.embedded import EmbeddedStore, find_server
from storage.leases import Leases

ROOT = Path(__file__).resolve().parent.parent
POLL_RATE, POLL_BAR_S, POLL_CONNECTIONS = 1500, 0.05, 32
SUBMIT_RATE, SUBMIT_BAR_S = 150, 0.1
CLIENTS, LONG_POLLS = 200, 1000
GROWTH_BAR = 1.1
"""Resident memory at the end of the mixed load, relative to its first tenth."""
OK, ACCEPTED = frozenset({200}), frozenset({202})


class Unexpected(Exception):
    """Another answer than the one that belongs to the call."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"{status} {body[:200]!r}")


@dataclass
class Result:
    """Rows of the table, and whether all bars were met."""

    good: bool = True
    rows: list[str] = field(default_factory=list)

    def add(self, name: str, text: str, *, good: bool, faults: list[str] | None = None) -> None:
        """Print and keep a row."""
        shown = f"{name:34} {text:58} load {os.getloadavg()[0]:5.2f}  {'met' if good and not faults else 'MISSED'}"
        print(shown, flush=True)
        for fault in (faults or [])[:3]:
            print(f"    {fault}", flush=True)
        self.good &= good and not faults
        self.rows.append(shown)

    def add_latencies(self, name: str, found: Latencies, rate: float, bar_s: float) -> None:
        """Add what an open loop found."""
        times = ", ".join(f"p{share:g} {found.find_quantile(share / 100) * 1000:.1f}" for share in (50, 99, 99.9))
        self.add(
            name,
            f"{rate:g}/s: {times} ms, bar p99 {bar_s * 1000:g} ms",
            good=found.find_quantile(0.99) <= bar_s,
            faults=found.faults,
        )


def main(arguments: list[str] | None = None) -> int:
    """Run everything; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--processes", type=int, default=2, help="API processes on the one port (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=0.0, help="of mixed load at the end, for the memory (default: none)")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="faultline-load-", ignore_cleanup_errors=True) as folder:
        result = asyncio.run(run(Path(folder), given))
    return 0 if result.good else 1


async def run(folder: Path, given: argparse.Namespace) -> Result:
    """Start the programs and load them."""
    result = Result()
    with running_store(folder) as redis_url, running_api(folder, redis_url, given.processes) as (port, pids):
        target = Target(port, redis_url)
        ids = await target.fill(given.jobs)
        polls = [prepare("GET", f"/v1/audits/{audit_id}") for audit_id in ids]
        connections = [Connection("127.0.0.1", port) for _ in range(POLL_CONNECTIONS)]
        await load_openly(connections, lambda n: polls[n * 7919 % len(polls)], POLL_RATE / 3, 2, OK)
        found = await load_openly(connections, lambda n: polls[n * 7919 % len(polls)], POLL_RATE, given.seconds, OK)
        result.add_latencies(f"polls, {given.jobs} jobs stored", found, POLL_RATE, POLL_BAR_S)
        found = await load_openly(connections, target.make_submit, SUBMIT_RATE, given.seconds, ACCEPTED)
        result.add_latencies("submits", found, SUBMIT_RATE, SUBMIT_BAR_S)
        await add_clients(result, target, polls)
        await add_long_polls(result, target)
        if given.minutes:
            await add_memory(result, target, connections, polls, pids, given.minutes)
        for connection in connections:
            await connection.close()
    return result


class Target:
    """The API as its clients see it, and the store as a worker does."""

    def __init__(self, port: int, redis_url: str) -> None:
        self.port = port
        self._leases = Leases(connect(redis_url))
        self._named: dict[str, Any] = {}
        self.count = 0

    async def fill(self, jobs: int) -> list[str]:
        """Upload a model and data, and submit `jobs` audits; return their ids."""
        connection = Connection("127.0.0.1", self.port)
        for part in ("model", "data"):
            content = part.encode()
            digest = compute_sha256(content)
            status, body = await connection.ask(_prepare_upload(digest, content))
            if status not in {200, 201}:
                raise Unexpected(status, body)
            self._named[part] = {"uri": f"artifact:sha256:{digest}"}
        await connection.close()
        connections = [Connection("127.0.0.1", self.port) for _ in range(8)]
        ids: list[str] = []

        async def submit(own: Connection) -> None:
            while self.count < jobs:
                status, body = await own.ask(self.make_submit(0))
                if status != 202:
                    raise Unexpected(status, body)
                ids.append(json.loads(body)["id"])

        await asyncio.gather(*(submit(own) for own in connections))
        for own in connections:
            await own.close()
        return ids

    def make_submit(self, _number: int) -> bytes:
        """Return a submission that no earlier one equals."""
        self.count += 1
        request = {**self._named, "search": {"seed": self.count}, "labels": {"branch": "main"}}
        return prepare("POST", "/v1/audits", json.dumps(request).encode(), idempotency_key=f"load-{os.getpid()}-{self.count}")

    def progress(self, audit_id: str) -> None:
        """Make a job change as its worker would."""
        self._leases.claim(audit_id, "load")


def _prepare_upload(digest: str, content: bytes) -> bytes:
    head = f"PUT /v1/artifacts/{digest} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(content)}\r\n\r\n"
    return head.encode() + content


async def add_clients(result: Result, target: Target, polls: list[bytes]) -> None:
    """200 clients, each with a connection of its own: submit, poll ten jobs, list a page."""
    began = time.perf_counter()

    async def act(number: int) -> None:
        own = Connection("127.0.0.1", target.port)
        script = [(target.make_submit(0), 202), *((polls[(number * 31 + i) % len(polls)], 200) for i in range(10))]
        for request, expected in [*script, (prepare("GET", "/v1/audits?limit=20"), 200)]:
            status, body = await own.ask(request)
            if status != expected:
                raise Unexpected(status, body)
        await own.close()

    faults = await load_closed([partial(act, number) for number in range(CLIENTS)])
    text = f"{CLIENTS * 12} calls in {time.perf_counter() - began:.1f} s, {len(faults)} errors"
    result.add(f"{CLIENTS} clients at once", text, good=True, faults=[repr(fault) for fault in faults])


async def add_long_polls(result: Result, target: Target) -> None:
    """1,000 long polls of jobs that then change, one after the other."""
    ids = await target.fill(target.count + LONG_POLLS)
    late: list[float] = []
    changed: dict[str, float] = {}

    async def wait(audit_id: str) -> None:
        own = Connection("127.0.0.1", target.port)
        status, body = await own.ask(prepare("GET", f"/v1/audits/{audit_id}", prefer="wait=60", if_none_match='"1"'))
        late.append(time.perf_counter() - changed.get(audit_id, 0.0))
        await own.close()
        if status != 200 or json.loads(body)["state"] != "running":
            raise Unexpected(status, body)

    async def change() -> None:
        await asyncio.sleep(4)  # all are held by then
        for audit_id in ids[:LONG_POLLS]:
            changed[audit_id] = time.perf_counter()
            await asyncio.to_thread(target.progress, audit_id)

    clients = [partial(wait, audit_id) for audit_id in ids[:LONG_POLLS]]
    faults = await load_closed([*clients, change])
    p99 = sorted(late)[int(0.99 * len(late))] if late else float("inf")
    text = f"all answered, p99 {p99 * 1000:.0f} ms after the change"
    result.add(
        f"{LONG_POLLS} long polls held at once", text, good=len(late) == LONG_POLLS, faults=[repr(fault) for fault in faults]
    )


async def add_memory(
    result: Result, target: Target, connections: list[Connection], polls: list[bytes], pids: list[int], minutes: float
) -> None:
    """Mixed load at a third of the rates; resident memory of the API processes at the end of each tenth."""
    sizes, faults = [], []
    for _ in range(10):
        mixed = lambda n: target.make_submit(n) if n % 11 == 0 else polls[n * 7919 % len(polls)]  # noqa: E731 - one line, used once
        found = await load_openly(connections, mixed, POLL_RATE / 3, minutes * 6, OK | ACCEPTED)
        faults += found.faults
        sizes.append(sum(map(read_resident_mib, pids)))
    text = f"{minutes:g} min: {' '.join(f'{size:.0f}' for size in sizes)} MiB"
    result.add("memory under mixed load", text, good=sizes[-1] <= GROWTH_BAR * sizes[1], faults=faults)


def read_resident_mib(pid: int) -> float:
    """Return the resident memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:"))


@contextmanager
def running_store(folder: Path) -> Iterator[str]:
    """Run the embedded store."""
    store = EmbeddedStore(find_server(), folder / "store")
    with subprocess.Popen(store.command, stdout=subprocess.DEVNULL) as process:
        try:
            with connect(store.redis_url) as client:
                client.ping()
            yield store.redis_url
        finally:
            process.terminate()


@contextmanager
def running_api(folder: Path, redis_url: str, processes: int) -> Iterator[tuple[int, list[int]]]:
    """Run the API's processes on one listening socket; give its port and their ids."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    environment = {
        **os.environ,
        "REDIS_URL": redis_url,
        "FAULTLINE_DATA_DIR": str(folder / "data"),
        "FAULTLINE_LOG_LEVEL": "WARNING",
    }
    command = [sys.executable, "-m", "service", "--fd", str(listener.fileno())]
    started = [
        subprocess.Popen(command, cwd=ROOT, env=environment, pass_fds=[listener.fileno()], stdout=subprocess.PIPE)
        for _ in range(processes)
    ]
    try:
        for process in started:
            if process.stdout is not None:
                process.stdout.readline()
        yield listener.getsockname()[1], [process.pid for process in started]
    finally:
        for process in started:
            process.terminate()
        for process in started:
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
        listener.close()


if __name__ == "__main__":
    raise SystemExit(main())
