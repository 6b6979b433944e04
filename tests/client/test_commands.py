"""The commands against the real API: what they print for people and for programs."""

import fcntl
import json
from pathlib import Path
from typing import Any

import pytest

from client.commands.replay import choose_counterexamples
from client.errors import BadUsage, ExitCode
from schemas.base import compute_sha256
from schemas.report import BitFlips, Report
from tests.client.conftest import Inside
from tests.gate.reports import build_document
from tests.gate.test_flips import build_flips

AUDIT = ("audit", "model.onnx", "--data", "data.npz")


def submit(inside: Inside, server: str, *more: str) -> dict[str, Any]:
    """Run one audit to its end, or not, and return its job."""
    _, out, _ = inside(*AUDIT, "--server", server, "--json", *more)
    job: dict[str, Any] = json.loads(out)["job"]
    return job


def test_json_is_one_object_and_nothing_else(inside: Inside, server: str) -> None:
    code, out, err = inside(*AUDIT, "--policy", "fail.yaml", "--server", server, "--json")
    result = json.loads(out)
    assert set(result) == {"job", "report_sha256", "verdict", "problem", "exit_code"}
    assert result["exit_code"] == code == ExitCode.GATE_FAILED
    assert result["verdict"]["outcome"] == "fail"
    assert result["report_sha256"] == result["job"]["report"]["sha256"] == result["verdict"]["report_sha256"]
    assert result["job"]["state"] == "succeeded"
    assert "is accepted by" in err


@pytest.mark.parametrize(
    ("more", "code", "problem"),
    [
        (("--label", "play=fail", "--fresh"), 2, "model_unreadable"),
        (("--label", "play=leave", "--fresh", "--wait", "0.1"), 4, "gave_up"),
        (("--set", "norm=0,epsilon=1"), 3, "usage"),
    ],
)
def test_json_tells_errors_too(inside: Inside, server: str, more: tuple[str, ...], code: int, problem: str) -> None:
    found, out, _ = inside(*AUDIT, "--server", server, "--json", *more)
    result = json.loads(out)
    assert found == result["exit_code"] == code
    assert result["problem"]["code"] == problem
    assert result["problem"]["errors"]


def test_the_report_lands_in_the_file_that_was_named(inside: Inside, server: str) -> None:
    job = submit(inside, server, "--report-out", "out.json")
    assert compute_sha256(Path("out.json").read_bytes()) == job["report"]["sha256"]


def test_an_audit_prints_report_verdict_and_last_line(inside: Inside, server: str) -> None:
    code, out, err = inside(*AUDIT, "--policy", "pass.yaml", "--server", server)
    assert code == ExitCode.SUCCESS
    order = [
        out.index(part)
        for part in ("Audit", "Whole model", "Most vulnerable modules", "Gradient against chance", "Verdict by policy")
    ]
    assert order == sorted(order)
    assert "is accepted by" in err


def test_labels_and_baseline_come_along(inside: Inside, server: str, folder: Path) -> None:
    policy = {
        "name": "p",
        "conditions": [{"id": "a", "require": {"loss_change_at_most": 9}}],
        "regression": {"loss_change_ratio_at_most": 2},
    }
    (folder / "regression.json").write_text(json.dumps(policy), encoding="utf-8")
    first = submit(inside, server, "--label", "branch=main", "--report-out", "first.json")
    assert first["labels"] == {"branch": "main"}
    judged = (*AUDIT, "--policy", "regression.json", "--server", server)
    assert inside(*judged)[0] == ExitCode.INCONCLUSIVE
    assert inside(*judged, "--baseline", first["id"])[0] == ExitCode.SUCCESS
    assert inside(*judged, "--baseline", "first.json")[0] == ExitCode.SUCCESS
    assert inside("verdict", first["id"], "--policy", "regression.json", "--baseline", "first.json", "--server", server)[0] == 0
    assert inside("verdict", "first.json", "--policy", "regression.json", "--baseline", first["id"], "--server", server)[0] == 0
    assert inside("verdict", "first.json", "--policy", "regression.json", "--baseline", "first.json")[0] == 0


def test_status_shows_the_job(inside: Inside, server: str) -> None:
    job = submit(inside, server, "--policy", "warn.yaml", "--label", "branch=main")
    _, out, _ = inside("status", job["id"], "--server", server)
    for part in (job["id"], "succeeded", job["report"]["sha256"], "warn", "branch=main"):
        assert part in out
    assert json.loads(inside("status", job["id"], "--server", server, "--json")[1])["id"] == job["id"]


def test_status_of_a_failed_audit_lists_its_faults(inside: Inside, server: str) -> None:
    job = submit(inside, server, "--fresh", "--label", "play=fail")
    code, out, _ = inside("status", job["id"], "--server", server)
    assert code == ExitCode.SUCCESS
    assert "failed" in out
    assert "the ONNX file ends early" in out


def test_status_waits_for_the_end(inside: Inside, server: str) -> None:
    job = submit(inside, server, "--fresh", "--label", "play=linger", "--wait", "0.01")
    code, out, _ = inside("status", job["id"], "--wait", "30", "--server", server)
    assert (code, "succeeded" in out) == (ExitCode.SUCCESS, True)


def test_cancel_ends_a_queued_audit_and_only_once(inside: Inside, server: str) -> None:
    job = submit(inside, server, "--fresh", "--label", "play=leave", "--wait", "0.01")
    code, out, _ = inside("cancel", job["id"], "--server", server)
    assert (code, "cancelled" in out) == (ExitCode.SUCCESS, True)
    assert inside("cancel", job["id"], "--server", server)[0] == ExitCode.USAGE
    assert inside("report", job["id"], "--server", server)[0] == ExitCode.INCONCLUSIVE


def test_report_in_every_form(inside: Inside, server: str) -> None:
    job = submit(inside, server)
    _, out, _ = inside("report", job["id"], "--format", "json", "--server", server)
    assert compute_sha256(out.rstrip("\n").encode()) == job["report"]["sha256"]
    inside("report", job["id"], "--out", "r.json", "--server", server)
    assert compute_sha256(Path("r.json").read_bytes()) == job["report"]["sha256"]
    inside("report", "r.json", "--out", "r.txt", "--format", "text")
    assert Path("r.txt").read_text(encoding="utf-8") == inside("report", job["id"], "--server", server)[1]
    assert "features.3" in Path("r.txt").read_text(encoding="utf-8")


def test_a_verdict_by_id_is_the_service_s_and_knows_the_deployed_file(inside: Inside, server: str, folder: Path) -> None:
    job = submit(inside, server)
    judged = ("verdict", job["id"], "--policy", "pass.yaml", "--server", server, "--json")
    code, out, _ = inside(*judged, "--expect-model", "model.onnx")
    assert code == ExitCode.SUCCESS
    assert json.loads(out)["deployed_sha256"] == compute_sha256((folder / "model.onnx").read_bytes())
    (folder / "other.onnx").write_bytes(b"retrained since")
    assert inside(*judged, "--expect-model", "other.onnx")[0] == ExitCode.GATE_FAILED


def test_the_service_that_runs_in_the_folder_is_found(inside: Inside, server: str, folder: Path) -> None:
    (folder / "faultline-data").mkdir()
    lock = folder / "faultline-data" / "standalone.lock"
    lock.write_text(json.dumps({"pid": 1, "url": server}), encoding="utf-8")
    assert inside("status", "0" * 29)[0] == ExitCode.USAGE
    with lock.open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        code, _, err = inside(*AUDIT)
    assert code == ExitCode.SUCCESS
    assert f"Using the service that runs at {server}" in err


def replay_report(folder: Path, *kept: str) -> None:
    """Write a report about the standing files that keeps counterexamples of the findings named."""
    document = build_document()
    for section, name in (("model", "model.onnx"), ("data", "data.npz")):
        document["subject"][section]["sha256"] = compute_sha256((folder / name).read_bytes())
    document["counterexamples"] = [
        {"finding": finding, "artifact": f"sha256:{compute_sha256(finding.encode())}"} for finding in kept
    ]
    (folder / "report.json").write_text(json.dumps(document), encoding="utf-8")


REPLAY = ("replay", "report.json", "--model", "model.onnx", "--data", "data.npz")


def test_bit_flips_are_replayed_from_the_report_alone(folder: Path) -> None:
    replay_report(folder)
    document = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    report = Report.model_validate(document)
    with pytest.raises(BadUsage, match="keeps no counterexamples"):
        choose_counterexamples(report, ())
    flipped = report.model_copy(update={"bit_flips": (BitFlips.model_validate(build_flips()),)})
    assert choose_counterexamples(flipped, ()) == {}
    with pytest.raises(BadUsage, match="f-0001"):
        choose_counterexamples(flipped, ("f-0001",))


@pytest.mark.parametrize(
    ("kept", "more", "told"),
    [
        ((), (), "keeps no counterexamples"),
        (("f-0001",), ("--finding", "f-0002"), "keeps no counterexample of f-0002"),
        (("f-0001",), ("--counterexample", "data.npz"), "data.npz is not the counterexample of f-0001"),
        (("f-0001", "f-0003"), ("--counterexample", "data.npz"), "--counterexample names no finding"),
        (("f-0001",), (), "no server is named and none runs here"),
        (("f-0001",), ("--model", "data.npz"), "data.npz is not what the report is about"),
    ],
)
def test_a_replay_that_cannot_be_is_refused(
    inside: Inside, folder: Path, kept: tuple[str, ...], more: tuple[str, ...], told: str
) -> None:
    replay_report(folder, *kept)
    code, _, err = inside(*REPLAY, *more)
    assert code == ExitCode.USAGE
    assert told in err
