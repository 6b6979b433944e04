"""What must be true when everything is quiet again; each function returns what is not."""

import hashlib
from pathlib import Path
from typing import Any

import redis

from benchmarks.chaos.submitting import ENDED, Caller
from storage.connection import connect

STEADY = ("state", "attempt", "report", "problem", "started_at", "ended_at")
"""What does not change any more once a job has ended."""


def judge_jobs(caller: Caller) -> list[str]:
    """Check that every accepted job ended once, with one report or one problem."""
    faults = []
    for id, request in caller.jobs.items():
        job = caller.repeat("GET", f"/v1/audits/{id}").json()
        faults += [f"{id}: {fault}" for fault in _judge_job(caller, job, request)]
    return faults


def _judge_job(caller: Caller, job: dict[str, Any], request: dict[str, Any]) -> list[str]:
    state, seen = job["state"], caller.ends[job["id"]]
    faults = [f"{name} changed after the end: {seen[name]} -> {job[name]}" for name in STEADY if seen[name] != job[name]]
    if state not in ENDED:
        return [*faults, f"is {state}"]
    if state == "succeeded":
        if job["problem"] is not None or job["report"] is None:
            return [*faults, "succeeded without exactly one report"]
        return faults if _fits(caller, job, request) else [*faults, "has a report that is not its own"]
    if job["problem"] is None or job["report"] is not None:
        return [*faults, f"{state} without exactly one problem"]
    if state == "cancelled":
        return faults if job["id"] in caller.cancelled else [*faults, "cancelled, though nobody asked for it"]
    return faults if state == "quarantined" else [*faults, f"failed: {job['problem']['errors']}"]


def _fits(caller: Caller, job: dict[str, Any], request: dict[str, Any]) -> bool:
    answer = caller.repeat("GET", f"/v1/audits/{job['id']}/report")
    artifact = caller.repeat("GET", f"/v1/artifacts/{job['report']['sha256']}").content
    same = hashlib.sha256(answer.content).hexdigest() == job["report"]["sha256"] and artifact == answer.content
    return same and bool(answer.json()["request"]["search"]["seed"] == request["search"]["seed"])


def judge_store(store_url: str, caller: Caller) -> list[str]:
    """Check that the store knows exactly the accepted jobs, and that no attempt that was fenced off ended one."""
    faults = []
    with connect(store_url) as client:
        ids = {key.decode().rpartition(":")[2] for key in client.scan_iter("faultline:job:*")}
        if ids != caller.jobs.keys():
            faults.append(f"the store holds {len(ids)} jobs, {len(caller.jobs)} were accepted")
        for id in ids:
            faults += _judge_record(id, client)
        for name in ("pending", "leases"):
            if left := client.zcard(f"faultline:{name}"):
                faults.append(f"{left} jobs are left in `{name}`")
    return faults


def _judge_record(id: str, client: redis.Redis) -> list[str]:
    record: Any = client.hgetall(f"faultline:job:{id}")
    ended_by, attempt = record.get(b"ended_by"), record[b"attempt"]
    if ended_by is not None and ended_by != attempt:
        return [f"{id} was ended by attempt {ended_by.decode()}, its last is {attempt.decode()}"]
    return []


def judge_folder(folder: Path) -> list[str]:
    """Check that nothing temporary is left: no unfinished upload, no audit's scratch folder."""
    left = [path for path in (folder / "artifacts" / ".incoming").iterdir() if path.is_file()]
    scratch = [path for path in (folder / "scratch").iterdir() if path.is_dir()]
    return [f"left behind: {path.relative_to(folder)}" for path in (*left, *scratch)]
