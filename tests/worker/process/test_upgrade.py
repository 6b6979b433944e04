"""Jobs that an earlier program left in the store are ended by this one; a newer program's are left alone."""

import json
from pathlib import Path
from typing import Any

import redis

from tests.project.tree import ROOT
from tests.storage.desk import OWNER
from tests.storage.valkey import running_valkey
from tests.worker.process.fleet import open_fleet
from tests.worker.process.processes import eventually

DUMP: dict[str, Any] = json.loads((ROOT / "tests/golden/jobs-without-lanes.json").read_text())
JOBS: dict[str, str] = DUMP["jobs"]
ENDED = {"failed": "failed", "cancelled": "cancelled", "succeeded": "succeeded", "quarantined": "quarantined"}
TO_RUN = ("queued", "plan", "inspection", "running", "waiting", "released", "tried")


def load(client: redis.Redis) -> None:
    """Write the keys as they were."""
    for name, (kind, value) in DUMP["keys"].items():
        if kind == "hash":
            client.hset(name, mapping=value)
        elif kind == "zset":
            client.zadd(name, value)
        elif kind == "set":
            client.sadd(name, *value)
        else:
            client.set(name, value)


def read(client: redis.Redis, name: str) -> object:
    return client.hgetall(f"faultline:job:{JOBS[name]}")


def test_the_dump_is_of_a_program_that_knew_no_lanes() -> None:
    hashes = [value for kind, value in DUMP["keys"].values() if kind == "hash"]
    assert not any({"device", "priority", "deadline_at"} & value.keys() for value in hashes)
    assert not any("lane" in name for name in DUMP["keys"])


def test_every_job_of_an_earlier_program_ends_and_a_newer_programs_is_left_alone(tmp_path: Path) -> None:
    settings = {"FAULTLINE_LEASE_S": "3", "FAULTLINE_DRAIN_S": "1"}
    with running_valkey(tmp_path) as server, open_fleet(server, tmp_path, **settings) as fleet:
        for name in ("digits_mlp.onnx", "digits.npz"):
            fleet.artifacts.put_file(OWNER, ROOT / "examples/artifacts" / name)
        client = fleet.desk.client
        load(client)
        untouched = {name: read(client, name) for name in (*ENDED, "newer")}
        for _ in range(2):
            fleet.start()
        waited_for = [JOBS[name] for name in (*TO_RUN, "cancelling")]
        eventually(lambda: all(fleet.desk.get(id).ended_at is not None for id in waited_for), 150.0)
        records = {name: fleet.desk.get(JOBS[name]) for name in (*TO_RUN, "cancelling")}
        assert {name: record.state for name, record in records.items()} == {
            **dict.fromkeys(TO_RUN, "succeeded"), "cancelling": "cancelled"
        }, {name: record.problem for name, record in records.items() if record.problem}  # fmt: skip
        assert all(fleet.artifacts.path(OWNER, str(records[name].report_sha256)) for name in TO_RUN)
        assert records["running"].report_sha256 == records["waiting"].report_sha256
        assert (records["queued"].verdict, records["queued"].labels) == ("pass", {"branch": "main"})
        assert (records["running"].attempt, records["tried"].attempt, records["released"].attempt) == (2, 2, 2)
        assert {name: read(client, name) for name in untouched} == untouched
        assert {name: fleet.desk.get(JOBS[name]).state for name in ENDED} == ENDED
        assert client.zscore("faultline:pending", JOBS["newer"]) is not None
        assert client.zcard("faultline:leases") == 0
        assert client.zcard("faultline:pending") == 1
