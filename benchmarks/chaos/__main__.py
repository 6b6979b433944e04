"""Mistreat a deployment at random while audits come in; then count.

`python -m benchmarks.chaos --seeds 10 --jobs 100 --workers 4 --seconds 60` runs the real thing: a store that writes every
change to its disk, two APIs, workers, tiny audits over HTTP. Processes are killed and frozen, the store is slow, hangs up and
loses its process, the disk is full, clocks step, clients hang up. It exits with 1 unless, for every seed, each accepted audit
ended in one state with exactly one report or one problem, six deploys in a row quarantined nothing, and no process and no
temporary file was left behind.
"""

import argparse
import random
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.chaos.judging import judge_folder, judge_jobs, judge_store
from benchmarks.chaos.misdeeds import MISDEEDS, find_possible, wait_for_busy_worker
from benchmarks.chaos.processes import count_marked
from benchmarks.chaos.submitting import LONG, Caller
from benchmarks.chaos.system import System, stop_all

PERIOD_S = (0.2, 2.5)
DEPLOYS = 6
BUSY_LIMIT_S = 20.0


@dataclass
class Tally:
    """What happened to one seed's jobs."""

    seed: int
    ends: Counter[str] = field(default_factory=Counter)
    retried: int = 0
    misdeeds: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0


def main(arguments: list[str] | None = None) -> int:
    """Run every seed and print one row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=100)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long everything is mistreated")
    parser.add_argument("--settle", type=float, default=900.0, help="how long the jobs get to end after that")
    parser.add_argument("--only", action="append", choices=list(MISDEEDS), help="do nothing but this (may be repeated)")
    given = parser.parse_args(arguments)
    print("seed  accepted  succeeded  cancelled  quarantined  failed  retried  misdeeds     took  result")
    good = True
    total: Counter[str] = Counter()
    for seed in range(given.first_seed, given.first_seed + given.seeds):
        with tempfile.TemporaryDirectory(prefix="faultline-chaos-") as folder:
            tally = run_seed(seed, Path(folder), given)
        print_row(tally)
        total += tally.misdeeds
        good &= not tally.faults
    print("\nmisdeeds: " + ", ".join(f"{name} {total[name]}" for name in MISDEEDS))
    for name in given.only or MISDEEDS:
        if not total[name]:
            print(f"never done: {name}")
    return 0 if good else 1


def print_row(tally: Tally) -> None:
    """Print one row of the table and what went wrong."""
    ends = "  ".join(f"{tally.ends[state]:{len(state)}}" for state in ("succeeded", "cancelled", "quarantined", "failed"))
    counted = f"{tally.retried:7}  {tally.misdeeds.total():8}  {tally.seconds:5.0f} s"
    result = "BAD" if tally.faults else "good"
    print(f"{tally.seed:4}  {tally.ends.total():8}  {ends}  {counted}  {result}", flush=True)
    for fault in tally.faults[:20]:
        print(f"      {fault}", flush=True)


def run_seed(seed: int, folder: Path, given: argparse.Namespace) -> Tally:
    """Return what happened to one seed's jobs in a deployment of their own."""
    tally, began = Tally(seed), time.monotonic()
    place = folder / "data"
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        system = System(place, given.workers, listener)
        system.start()
        try:
            caller = Caller(system.port, seed, folder)
            submitting = threading.Thread(target=caller.submit_all, args=(given.jobs, given.seconds), daemon=True)
            submitting.start()
            wreak_havoc(system, seed, given, tally)
            if not settle(system, caller, submitting, given.settle):
                tally.faults.append(f"not every audit ended: {sorted(caller.jobs.keys() - caller.ends.keys())}")
                return tally
            deploy_in_a_row(system, caller, given, tally)
            tally.faults += judge_jobs(caller) + judge_store(system.store_url, caller)
        finally:
            system.stop()
            tally.ends.update(job["state"] for job in caller.ends.values())
            tally.retried = sum(job["attempt"] > 1 for job in caller.ends.values())
            tally.faults += judge_folder(place)
            system.disk.unmount()
    if orphans := count_marked(str(folder)):
        tally.faults.append(f"{orphans} processes were left behind")
    tally.seconds = time.monotonic() - began
    return tally


def wreak_havoc(system: System, seed: int, given: argparse.Namespace, tally: Tally) -> None:
    """Do something bad every few moments."""
    chance = random.Random(seed)  # noqa: S311 - repeatable on purpose
    possible = {name: entry for name, entry in find_possible(system).items() if name in (given.only or MISDEEDS)}
    names, shares = list(possible), [share for _, share in possible.values()]
    end = time.monotonic() + given.seconds
    while time.monotonic() < end:
        system.sleep(chance.uniform(*PERIOD_S))
        (name,) = chance.choices(names, shares)
        possible[name][0](system, chance)
        tally.misdeeds[name] += 1


def settle(system: System, caller: Caller, submitting: threading.Thread | None, limit_s: float) -> bool:
    """Wait until every job has ended; False when that took too long."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        system.sleep(0.5)
        if (submitting is None or not submitting.is_alive()) and caller.have_all_ended():
            return True
    return False


def deploy_in_a_row(system: System, caller: Caller, given: argparse.Namespace, tally: Tally) -> None:
    """Replace every worker six times while audits run that outlive the drain time; that must cost no audit anything."""
    ids = [caller.submit(caller.build_request(10_000 + i, LONG)) for i in range(given.workers)]
    for _ in range(DEPLOYS):
        wait_for_busy_worker(system, BUSY_LIMIT_S)
        stop_all(system.workers)
        for worker in system.workers:
            worker.start()
    if not settle(system, caller, None, given.settle):
        tally.faults.append("not every audit ended after the deploys")
    ends = [caller.ends[id] for id in ids if id in caller.ends]
    if states := {end["state"] for end in ends} - {"succeeded"}:
        tally.faults.append(f"six deploys in a row ended audits as {states}")
    if all(end["attempt"] == 1 for end in ends):
        tally.faults.append("no deploy met an audit that outlived its drain time: this check showed nothing")


if __name__ == "__main__":
    sys.exit(main())
