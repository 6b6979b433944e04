"""What the service adds to an audit: the time from POST to the report in hand, less what the engine itself took.

`python -m benchmarks.overhead` starts store, API and one worker and posts one audit after the other, each when the worker has
had time to warm its next audit process; it waits with one long poll and fetches the report, all over HTTP, hashed and fsynced.
The engine's time is what the audit process says of itself: from the reading of the model to the finished result. Exits with 1
when the median is above the bar.
"""

import argparse
import os
import re
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import httpx2

from client.api import Client
from client.embedded import run_service
from client.handle import check_ended_well

BAR_S = 0.3
ARTIFACTS = Path(__file__).resolve().parent.parent / "examples/artifacts"
SETTLE_S = 1.0
"""The rest that the machine gets before each audit, once the worker says that its next audit process is warm."""
METRICS = re.compile(r"metrics are at (http://\S+)")
ENDED = re.compile(r"job (\w+) attempt 1 succeeded after ([\d.]+) s, of which the engine took ([\d.]+) s")


class Sample(NamedTuple):
    """One audit: seconds from POST to the report, of them under a worker's lease, and of those in the engine."""

    total_s: float
    worker_s: float
    engine_s: float

    @property
    def overhead_s(self) -> float:
        """What was not the engine."""
        return self.total_s - self.engine_s


def main(arguments: list[str] | None = None) -> int:
    """Print the figures; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audits", type=int, default=50)
    parser.add_argument("--settle", type=float, default=SETTLE_S, help="seconds of rest before each audit (default: %(default)s)")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="faultline-overhead-", ignore_cleanup_errors=True) as folder:
        samples = measure(Path(folder), given.audits, given.settle)
    return show(samples)


def measure(folder: Path, audits: int, settle_s: float) -> list[Sample]:
    """Return one sample for each audit, the first of the deployment left out."""
    os.environ["FAULTLINE_METRICS_PORT"] = "0"
    with run_service(folder) as server, Client(server) as client:
        request = build_request(client)
        run_once(client, request)
        totals = {}
        for _ in range(audits):
            wait_until_warm(folder / "logs/worker-1.log")
            time.sleep(settle_s)
            job_id, total_s = run_once(client, request)
            totals[job_id] = total_s
        wait_until_warm(folder / "logs/worker-1.log")  # by then the last job's line is written
        log = (folder / "logs/worker-1.log").read_text(encoding="utf-8")
    told = {job_id: (float(worker_s), float(engine_s)) for job_id, worker_s, engine_s in ENDED.findall(log)}
    return [Sample(total_s, *told[job_id]) for job_id, total_s in totals.items()]


def wait_until_warm(log: Path) -> None:
    """Return when the worker's metrics say that an audit process is ready."""
    found = METRICS.search(log.read_text(encoding="utf-8"))
    while found is not None and "\nfaultline_warm 1.0\n" not in httpx2.get(found[1]).text:
        time.sleep(0.1)


def build_request(client: Client) -> dict[str, Any]:
    """Return a small audit with a policy, its files uploaded; never answered with an earlier report."""
    model, data = client.upload(ARTIFACTS / "digits_cnn_sturdy.onnx"), client.upload(ARTIFACTS / "digits.npz")
    policy = {"name": "bench", "conditions": [{"id": "loss", "require": {"loss_change_at_most": 100}}]}
    sets = [{"norm": 2, "epsilon": [0.1]}]
    named = {"model": {"uri": model}, "data": {"uri": data}, "sets": sets, "scopes": ["model"], "policy": policy}
    return {**named, "search": {"budget_passes": 8}, "breaking_points": [], "fresh": True}


def run_once(client: Client, request: dict[str, Any]) -> tuple[str, float]:
    """Return an audit's id and the seconds until its report was here."""
    began = time.perf_counter()
    job = client.submit(request)
    job = check_ended_well(client.fetch_job(job.id, wait_s=60))
    client.fetch_report(job.id)
    return job.id, time.perf_counter() - began


def show(samples: list[Sample]) -> int:
    """Print the table; return 1 when the bar is missed."""
    print(f"{len(samples)} audits one after the other; load of the machine {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores")
    print("seconds                       median     p90     max")
    rows = {
        "POST to report": [sample.total_s for sample in samples],
        "under a lease": [sample.worker_s for sample in samples],
        "engine": [sample.engine_s for sample in samples],
        "overhead": [sample.overhead_s for sample in samples],
        "of it outside the worker": [sample.total_s - sample.worker_s for sample in samples],
    }
    for name, values in rows.items():
        high = statistics.quantiles(values, n=10)[-1] if len(values) > 1 else values[0]
        print(f"{name:26}  {statistics.median(values):8.3f}{high:8.3f}{max(values):8.3f}")
    median_s = statistics.median(rows["overhead"])
    print(f"overhead {median_s:.3f} s, bar {BAR_S} s: {'met' if median_s <= BAR_S else 'MISSED'}")
    return 0 if median_s <= BAR_S else 1


if __name__ == "__main__":
    raise SystemExit(main())
