"""Kill -9 of workers, audit processes and the store at random while audits come in; then count the reports.

`python -m benchmarks.chaos --seeds 4 --jobs 200 --workers 3 --seconds 60` runs the real thing: embedded store, API,
workers, tiny audits over HTTP with idempotency keys. It exits with 1 unless, for every seed, each accepted audit
succeeded with exactly one report that fits it, and no process was left behind.
"""

import argparse
import hashlib
import os
import random
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from standalone.plan import Plan, plan_api, plan_store, plan_workers
from standalone.program import Program
from storage.embedded import EmbeddedStore, find_server

TWIN_SHARE = 0.1
"""Share of requests that repeat an earlier one under another key: two equal audits at once run once."""
KILL_PERIOD_S = (0.5, 3.5)
DOWN_S = (0.0, 1.0)
BUSY_SHARE, BUSY_WAIT_S = 0.7, 3.0
"""Share of the kills of workers and audits that wait for one in the middle of an audit."""
VICTIMS = {"worker": 6, "audit": 2, "store": 3}
"""How often each kind is chosen, relative to each other."""


@dataclass
class Tally:
    """What happened to one seed's jobs."""

    seed: int
    accepted: int = 0
    succeeded: int = 0
    reports: int = 0
    retried: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    orphans: int = 0
    settled_s: float = 0.0

    @property
    def is_good(self) -> bool:
        """Whether nothing was lost, doubled or left behind."""
        return not self.faults and self.orphans == 0 and self.succeeded == self.reports == self.accepted > 0


def main(arguments: list[str] | None = None) -> int:
    """Run every seed and print one row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long processes are killed")
    parser.add_argument("--settle", type=float, default=1800.0, help="how long the jobs get to end after that")
    given = parser.parse_args(arguments)
    print("seed  accepted  succeeded  reports  retried  kills (worker/audit/store)  settled in  orphans  result")
    good = True
    for seed in range(given.first_seed, given.first_seed + given.seeds):
        with tempfile.TemporaryDirectory(prefix="faultline-chaos-") as folder:
            tally = run_seed(seed, Path(folder), given)
        print_row(tally)
        good &= tally.is_good
    return 0 if good else 1


def print_row(tally: Tally) -> None:
    """Print one row of the table and what went wrong."""
    kills = "/".join(str(tally.kills[victim]) for victim in VICTIMS)
    numbers = f"{tally.accepted:8}  {tally.succeeded:9}  {tally.reports:7}  {tally.retried:7}"
    result = "good" if tally.is_good else "BAD"
    print(f"{tally.seed:4}  {numbers}  {kills:>26}  {tally.settled_s:8.1f} s  {tally.orphans:7}  {result}", flush=True)
    for fault in tally.faults[:20]:
        print(f"      {fault}", flush=True)


def run_seed(seed: int, folder: Path, given: argparse.Namespace) -> Tally:
    """Return what happened to one seed's jobs in a deployment of their own."""
    tally = Tally(seed)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        system = System(folder, given.workers, listener)
        system.start()
        try:
            client = Client(f"http://127.0.0.1:{listener.getsockname()[1]}", seed, folder)
            submitting = threading.Thread(target=client.submit_all, args=(given.jobs, given.seconds), daemon=True)
            submitting.start()
            wreak_havoc(system, make_chance(seed), given.seconds, tally)
            settle(system, client, submitting, given, tally)
            client.check_all(tally)
        finally:
            system.stop()
    tally.orphans = count_processes(str(folder))
    return tally


def make_chance(seed: int) -> random.Random:
    """Return the source of every choice, so that a run can be repeated."""
    return random.Random(seed)  # noqa: S311 - repeatable on purpose


class System:
    """Store, API and workers as the one-command deployment starts them, on this thread."""

    def __init__(self, folder: Path, workers: int, listener: socket.socket) -> None:
        environment = {**os.environ, "FAULTLINE_LEASE_S": "3", "FAULTLINE_DRAIN_S": "2", "FAULTLINE_LOG_LEVEL": "WARNING"}
        plan = Plan(folder, workers, listener.fileno(), environment, EmbeddedStore(find_server(), folder / "store"))
        plan.logs.mkdir()
        (self.store,) = (Program(spec) for spec in plan_store(plan))
        self.api = Program(plan_api(plan))
        self.workers = [Program(spec) for spec in plan_workers(plan)]

    def start(self) -> None:
        """Start everything; what needs the store waits for it."""
        for program in (self.store, self.api, *self.workers):
            program.start()

    def tend(self) -> None:
        """Start again what has died by itself."""
        for program in (self.store, self.api, *self.workers):
            program.tend()

    def stop(self) -> None:
        """Stop in order: API, workers, store."""
        for program in (self.api, *self.workers, self.store):
            program.ask_to_stop()
            if not program.wait(program.spec.stop_s):
                program.kill()


def wreak_havoc(system: System, chance: random.Random, seconds: float, tally: Tally) -> None:
    """Kill somebody every few moments; what was killed comes back after a moment."""
    end = time.monotonic() + seconds
    while (now := time.monotonic()) < end:
        sleep_and_tend(system, min(chance.uniform(*KILL_PERIOD_S), end - now))
        kind = chance.choices(list(VICTIMS), list(VICTIMS.values()))[0]
        victim, down_s = chance.choice(system.workers), chance.uniform(*DOWN_S)
        if kind != "store" and chance.random() < BUSY_SHARE:
            victim = wait_for_busy_worker(system) or victim
        if kind == "audit":
            tally.kills[kind] += kill_audits(victim)
            continue
        program = system.store if kind == "store" else victim
        program.kill()
        tally.kills[kind] += 1
        time.sleep(down_s)
        program.start()


def wait_for_busy_worker(system: System) -> Program | None:
    """Return a worker in the middle of an audit, waiting a little for one."""
    end = time.monotonic() + BUSY_WAIT_S
    while time.monotonic() < end:
        for worker in system.workers:
            if any(is_auditing(pid) for pid in find_audits(worker)):
                return worker
        sleep_and_tend(system, 0.01)
    return None


def is_auditing(pid: int) -> bool:
    """Tell whether an audit process has begun its job: it then offers itself to the memory killer."""
    try:
        return Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == "1000"
    except (FileNotFoundError, ProcessLookupError):
        return False


def find_audits(worker: Program) -> list[int]:
    """Return the worker's audit processes, the busy one and the warm one."""
    return [pid for pid, parent in list_processes().items() if parent == worker.pid]


def kill_audits(worker: Program) -> int:
    """Kill every audit process of the worker."""
    killed = 0
    for pid in find_audits(worker):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        killed += 1
    return killed


def sleep_and_tend(system: System, seconds: float) -> None:
    """Wait, and keep everything running meanwhile."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        system.tend()
        time.sleep(0.01)


def settle(system: System, client: "Client", submitting: threading.Thread, given: argparse.Namespace, tally: Tally) -> None:
    """Wait until every job has ended."""
    began = time.monotonic()
    while time.monotonic() - began < given.settle:
        sleep_and_tend(system, 0.5)
        if not submitting.is_alive() and client.have_all_ended():
            break
    tally.settled_s = time.monotonic() - began
    if submitting.is_alive():
        tally.faults.append("not every audit could be submitted in time")


class Client:
    """Submits audits and never gives up on one; every answer that may pass is asked for again with the same key."""

    def __init__(self, url: str, seed: int, folder: Path) -> None:
        self._http = httpx2.Client(base_url=url, timeout=10)
        self._chance = make_chance(seed + 1_000_000)
        self._seed = seed
        self._model, self._data = make_model(seed), make_data(seed, folder)
        self.jobs: dict[str, dict[str, Any]] = {}
        """Accepted job ids with the request of each."""

    def submit_all(self, jobs: int, seconds: float) -> None:
        """Spread the audits over the time of havoc."""
        model, data = self._upload(self._model), self._upload(self._data)
        requests: list[dict[str, Any]] = []
        for i in range(jobs):
            if requests and self._chance.random() < TWIN_SHARE:
                requests.append(self._chance.choice(requests))
            else:
                requests.append(build_request(model, data, search_seed=i))
            answer = self._repeat("POST", "/v1/audits", json=requests[-1], headers={"Idempotency-Key": f"{self._seed}-{i}"})
            self.jobs[answer.json()["id"]] = requests[-1]
            time.sleep(seconds / jobs * self._chance.random())

    def _upload(self, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        self._repeat("PUT", f"/v1/artifacts/{digest}", content=content)
        return f"artifact:sha256:{digest}"

    def _repeat(self, method: str, path: str, **options: Any) -> httpx2.Response:
        while True:
            try:
                answer = self._http.request(method, path, **options)
            except httpx2.TransportError:
                time.sleep(0.2)
                continue
            if answer.status_code < httpx2.codes.INTERNAL_SERVER_ERROR:
                return answer.raise_for_status()
            time.sleep(0.2)

    def have_all_ended(self) -> bool:
        """Tell whether no job is queued or running."""
        audits = self._repeat("GET", "/readyz").json()["audits"]
        return int(audits["queued"]) + int(audits["running"]) == 0

    def check_all(self, tally: Tally) -> None:
        """Count the jobs that succeeded and the reports that fit them."""
        tally.accepted = len(self.jobs)
        for job_id, request in self.jobs.items():
            job = self._repeat("GET", f"/v1/audits/{job_id}").json()
            tally.retried += job["attempt"] > 1
            if job["state"] != "succeeded":
                tally.faults.append(f"{job_id} is {job['state']} after {job['attempt']} attempts: {job['problem']}")
                continue
            tally.succeeded += 1
            content = self._repeat("GET", f"/v1/audits/{job_id}/report").content
            if self._fits(content, job, request):
                tally.reports += 1
            else:
                tally.faults.append(f"{job_id} has a report that is not its own")

    def _fits(self, content: bytes, job: dict[str, Any], request: dict[str, Any]) -> bool:
        artifact = self._repeat("GET", f"/v1/artifacts/{job['report']['sha256']}").content
        report = httpx2.Response(200, content=content).json()
        same = hashlib.sha256(content).hexdigest() == job["report"]["sha256"] and artifact == content
        return same and report["request"]["search"]["seed"] == request["search"]["seed"]


def make_model(seed: int) -> bytes:
    """Return a network of 4 inputs, 5 hidden units and 3 classes."""
    random_numbers = np.random.default_rng(seed)
    shapes = {"w1": (4, 5), "b1": (5,), "w2": (5, 3), "b2": (3,)}
    weights = [
        numpy_helper.from_array(random_numbers.normal(size=shape).astype(np.float32), name) for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], name="/first/Gemm"),
        helper.make_node("Relu", ["h"], ["r"], name="/Relu"),
        helper.make_node("Gemm", ["r", "w2", "b2"], ["logits"], name="/second/Gemm"),
    ]
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])]
    found = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])]
    graph = helper.make_graph(nodes, "tiny", given, found, weights)
    return onnx.ModelProto.SerializeToString(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9))


def make_data(seed: int, folder: Path) -> bytes:
    """Return 32 examples of 3 classes."""
    random_numbers = np.random.default_rng(seed)
    path = folder / "data.npz"
    labels = random_numbers.integers(0, 3, 32)
    np.savez(path, x=random_numbers.normal(size=(32, 4)).astype(np.float32), labels=labels)
    return path.read_bytes()


def build_request(model: str, data: str, search_seed: int) -> dict[str, Any]:
    """Return the smallest audit; the seed makes it another one."""
    return {
        "model": {"uri": model},
        "data": {"uri": data},
        "sets": [{"norm": 2, "epsilon": [0.1]}],
        "scopes": ["model"],
        "search": {"seed": search_seed, "random_trials": 500, "budget_passes": 20},
    }


def list_processes() -> dict[int, int]:
    """Return the living processes with their parents."""
    found = {}
    for folder in Path("/proc").iterdir():
        try:
            content = (folder / "stat").read_bytes() if folder.name.isdigit() else b""
        except (FileNotFoundError, ProcessLookupError):
            continue
        if content:
            state, parent = content[content.rindex(b")") + 2 :].split()[:2]
            if state != b"Z":
                found[int(folder.name)] = int(parent)
    return found


def count_processes(mark: str) -> int:
    """Return how many other processes have `mark` in their command line or environment."""
    count = 0
    for pid in list_processes():
        try:
            content = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        count += mark.encode() in content and pid != os.getpid()
    return count


if __name__ == "__main__":
    sys.exit(main())
