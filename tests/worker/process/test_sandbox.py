"""The sandbox of real audit processes, attacked as `python -m worker --check` does."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.project.tree import ROOT
from tests.storage.desk import OWNER
from tests.storage.valkey import RunningValkey, running_valkey
from tests.worker.process.bench import open_bench
from worker.check import find_layers, run_attacks
from worker.confine import LAYERS, REQUIRED, check_layers
from worker.sandbox import landlock, seccomp, syscalls
from worker.sandbox.attacks.bait import lay_bait
from worker.sandbox.attacks.calls import ALLOWED, CALLS
from worker.settings import WorkerSettings

SMALL: dict[str, Any] = {"job_timeout_s": 2.0, "job_memory_bytes": 2**30, "job_output_bytes": 2**20, "job_scratch_bytes": 2**24}
HARMLESS_OUTSIDE = (
    *("TCP over IPv4", "UDP", "unix socket with a path", "unix socket without a path", "netlink socket", "pair of sockets"),
    *("read a file of the user", "symbolic link to a file", "hard link to a file", "another root by /proc"),
    *("read another job's folder", "list another job's folder", "list the artifact store", "the parent's environment"),
    *("other processes in /proc", "start a process", "read another process's memory", "kill by handle", "outlive the supervisor"),
    *("slow others down", "make a file beside it", "change a file's mode", "change a file's times", "write a file of the user"),
    *("overwrite the audited model", "write the artifact store", "cut a file short"),
)
"""Attacks that can be let succeed: they touch the bait, or this process's own child, only."""
TRIES = """
import os, sys
from worker.sandbox.attacks.bait import Bait
from worker.sandbox.attacks.calls import CALLS, attempt
bait = Bait.decode(sys.argv[1])
for name in sys.argv[2:]:
    print(name, attempt(CALLS[name], bait), sep="|", flush=True)
"""


def make_settings(folder: Path, **changes: Any) -> WorkerSettings:
    return WorkerSettings(redis_url="redis://127.0.0.1", data_dir=folder, **{**SMALL, **changes})


def test_every_attack_is_stopped_and_nothing_outside_is_touched(tmp_path: Path) -> None:
    with lay_bait() as trap:
        layers, rows = run_attacks(make_settings(tmp_path), trap, tmp_path)
        assert trap.find_damage() == []
    assert [row for row in rows if not row.stopped] == []
    assert len(rows) >= 60
    assert {name: layers[name] for name in REQUIRED} == dict.fromkeys(REQUIRED, True)


def test_the_attacks_are_real(tmp_path: Path) -> None:
    """Without the sandbox they succeed, or else their failure inside it would say nothing."""
    with lay_bait() as trap:
        command = [sys.executable, "-c", TRIES, trap.bait.encode(), *HARMLESS_OUTSIDE]
        found = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True)
        damage = trap.find_damage()
    endings = dict(line.split("|") for line in found.stdout.splitlines())
    refused = {name: endings[name] for name in HARMLESS_OUTSIDE if endings[name] != "None"}
    assert refused == {}
    assert {"file was changed", "a listener was reached"} <= set(damage)


def test_off_means_off_and_is_told(tmp_path: Path) -> None:
    layers = find_layers(make_settings(tmp_path, sandbox="off"))
    assert [name for name in LAYERS if layers[name] and name not in {"no_new_privileges", "rlimits"}] == []
    with pytest.raises(Exception, match=r"landlock.*seccomp"):
        check_layers(layers, "required")
    check_layers(layers, "best")


def test_a_worker_that_requires_what_the_machine_lacks_does_not_start(tmp_path: Path) -> None:
    program = (
        "import worker.confine as c; c.REQUIRED = ('unheard_of',); from worker.__main__ import main; raise SystemExit(main())"
    )
    environment = {"PYTHONPATH": str(ROOT), "REDIS_URL": "redis://127.0.0.1:1", "FAULTLINE_DATA_DIR": str(tmp_path)}
    environment |= {"FAULTLINE_SANDBOX": "required"}
    ended = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 3
    assert "unheard_of" in ended.stderr


def test_the_report_says_what_confined_the_audit(tmp_path: Path) -> None:
    with running_valkey(tmp_path / "valkey") as valkey:
        assert audit_example(valkey, tmp_path) == dict.fromkeys(REQUIRED, True)


def audit_example(valkey: RunningValkey, folder: Path) -> dict[str, bool]:
    examples = ROOT / "examples/artifacts"
    with open_bench(valkey, folder, sandbox="required", job_memory_bytes=2**32) as bench:
        put = bench.resources.artifacts.put_file
        model, data = put(OWNER, examples / "digits_mlp.onnx"), put(OWNER, examples / "digits.npz")
        job = bench.post_for(model, data, sets=[{"norm": 2, "epsilon": [0.1]}], scopes=["model"])
        assert bench.run(job) == "succeeded"
        digest = bench.get(job).report_sha256
        assert digest is not None
        path = bench.resources.artifacts.path(OWNER, digest)
        assert path is not None
        layers = json.loads(path.read_bytes())["environment"]["sandbox"]
    return {name: layers[name] for name in REQUIRED}


def test_no_call_that_is_attacked_with_is_in_the_filter() -> None:
    forbidden = {"socket", "connect", "execve", "fork", "vfork", "ptrace", "kill", "mount", "unshare", "bpf", "io_uring_setup"}
    assert forbidden.isdisjoint(syscalls.SHARED | syscalls.OLD)
    for machine in syscalls.NUMBERS:
        assert len(seccomp.assemble(seccomp.Filter(machine, 1, accelerator=True))) < 4096
    assert landlock.find_version() >= 1
    assert set(ALLOWED).isdisjoint(CALLS)


def test_numbers_are_those_of_the_kernel() -> None:
    header = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
    generic = Path("/usr/include/asm-generic/unistd.h")
    if header.is_file():
        found = dict(re.findall(r"#define __NR_(\w+) (\d+)", header.read_text()))
        assert {name: number for name, number in syscalls.X86_64.items() if found[name] != str(number)} == {}
    if generic.is_file():
        found = dict(re.findall(r"#define __NR(?:3264)?_(\w+) (\d+)", generic.read_text())) | {"newfstatat": "79"}
        assert {name: number for name, number in syscalls.AARCH64.items() if found[name] != str(number)} == {}
