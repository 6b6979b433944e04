"""Whole audits in one process: complete, repeatable, and honest about what was not measured."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from schemas.base import canonical_bytes, compute_sha256
from schemas.errors import DataMismatch, NoParameters, ScopeError
from schemas.report import Measurement
from tests.worker.audits import build_request, write_job
from worker.audit import AuditInput, measure_audit
from worker.report import assemble_report


def run(job: AuditInput) -> Measurement:
    return measure_audit(job, lambda *_: None)


def test_every_scope_and_set_gives_one_finding_with_consistent_figures(tmp_path: Path) -> None:
    sets = [{"norm": 2, "epsilon": [0.1, 0.5], "max_corrupted": [None, 5]}, {"norm": "inf", "epsilon": [0.05]}]
    measured = run(write_job(tmp_path, sets=sets, scopes=["model", "per_module", "per_tensor"]))
    names = [(f.scope.kind, f.scope.name) for f in measured.findings]
    # The last bias has 3 weights, so "all" and "at most 5" are the same set there.
    assert len(names) == 5 * (1 + 2 + 4) - 2
    assert {name for kind, name in names if kind == "per_module"} == {"0", "2"}
    for finding in measured.findings:
        assert finding.first_order.loss_change is not None
        assert finding.measured.loss_change is not None
        assert finding.random is not None
        assert finding.measured.loss_change >= max(finding.first_order.loss_change, finding.random.loss_change.max or 0)
        accuracy = finding.measured.metrics["accuracy"]
        assert accuracy.drop == pytest.approx(measured.clean.metrics["accuracy"] - (accuracy.value or 0))
        assert finding.passes.forward + finding.passes.backward <= 7
    assert measured.coverage.weights_audited == measured.coverage.weights_total == 4 * 8 + 8 + 8 * 3 + 3


def test_rankings_hold_every_scope_with_the_most_vulnerable_first(tmp_path: Path) -> None:
    measured = run(write_job(tmp_path, sets=[{"norm": 2, "epsilon": [0.1, 0.5]}], scopes=["model", "per_tensor"]))
    assert [ranking.set["epsilon"] for ranking in measured.ranking] == [0.1, 0.5]
    for ranking in measured.ranking:
        changes = [entry.loss_change or math.inf for entry in ranking.scopes]
        assert len(changes) == 4
        assert changes == sorted(changes, reverse=True)


def test_without_sets_the_preset_is_half_of_the_breaking_point(tmp_path: Path) -> None:
    measured = run(write_job(tmp_path, sets=None))
    [point] = measured.breaking_points
    assert point.limit == {"metric": "accuracy", "drop": 0.05}
    assert point.reached
    assert point.bracket.hi is not None
    assert {finding.set.epsilon for finding in measured.findings} == {point.bracket.hi / 2}
    assert {finding.scope.kind for finding in measured.findings} == {"model", "per_module"}


def test_the_same_job_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    job = write_job(tmp_path, sets=None, scopes=["model", "per_module"])
    (tmp_path / "again").mkdir()
    other = replace(job, scratch=tmp_path / "again")
    first, second = run(job), run(other)
    assert canonical_bytes(first) == canonical_bytes(second)
    for name in first.counterexamples.values():
        assert (job.scratch / name).read_bytes() == (other.scratch / name).read_bytes()


def test_replay_of_every_counterexample_agrees_bit_for_bit(tmp_path: Path) -> None:
    job = write_job(tmp_path, sets=[{"norm": 2, "epsilon": [0.5], "max_corrupted": [None, 4]}], scopes=["model", "per_module"])
    measured = run(job)
    digests = {finding: compute_sha256((job.scratch / name).read_bytes()) for finding, name in measured.counterexamples.items()}
    report = assemble_report(job.request, DIGEST_OF_REQUEST, measured, job.model_path.stat().st_size, digests)
    (tmp_path / "report.json").write_bytes(canonical_bytes(report))
    pairs = [f"--counterexample={finding}={job.scratch / name}" for finding, name in measured.counterexamples.items()]
    paths = ["--report", str(tmp_path / "report.json"), "--model", str(job.model_path), "--data", str(job.data_path)]
    done = subprocess.run([sys.executable, "-m", "worker.replay", *paths, *pairs], capture_output=True, text=True, check=False)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stderr
    assert len(rows) == 2 * len(measured.counterexamples) == 8
    assert all(row["reported"] == row["remeasured"] for row in rows)


def test_replay_flips_the_bits_that_the_report_names(tmp_path: Path) -> None:
    flips = [{"counts": [1, 3], "kinds": ["sign", "mantissa"], "random_trials": 0}]
    job = write_job(tmp_path, bit_flips=flips, scopes=["model"])
    measured = run(job)
    report = assemble_report(job.request, DIGEST_OF_REQUEST, measured, job.model_path.stat().st_size, {})
    paths = ["--report", str(tmp_path / "report.json"), "--model", str(job.model_path), "--data", str(job.data_path)]
    command = [sys.executable, "-m", "worker.replay", *paths, "--flips"]
    document = json.loads(canonical_bytes(report))
    outcomes = []
    for change in (0.0, 0.01):
        document["bit_flips"][0]["results"][1]["loss_change"] += change
        (tmp_path / "report.json").write_text(json.dumps(document))
        outcomes.append(subprocess.run(command, capture_output=True, text=True, check=False))
    rows = [json.loads(line) for line in outcomes[0].stdout.splitlines()]
    assert [done.returncode for done in outcomes] == [0, 1], outcomes[0].stderr
    assert [(row["finding"], row["what"]) for row in rows] == [
        (name, what) for name in ("flips-1-1", "flips-1-3") for what in ("loss", "accuracy")
    ]
    assert rows[0]["reported"] == report.bit_flips[0].results[0].loss_change == pytest.approx(rows[0]["remeasured"], rel=1e-5)
    assert rows[3]["remeasured"] == report.bit_flips[0].results[1].metrics["accuracy"].value


DIGEST_OF_REQUEST = "1" * 64


def test_replay_against_another_model_disagrees(tmp_path: Path) -> None:
    job = write_job(tmp_path, scopes=["model"])
    measured = run(job)
    report = assemble_report(job.request, DIGEST_OF_REQUEST, measured, 1, {})
    (tmp_path / "report.json").write_bytes(canonical_bytes(report))
    (tmp_path / "other").mkdir()
    torch.manual_seed(5)
    other = write_job(tmp_path / "other", nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)))
    [(finding, name)] = measured.counterexamples.items()
    paths = ["--report", str(tmp_path / "report.json"), "--model", str(other.model_path), "--data", str(job.data_path)]
    command = [sys.executable, "-m", "worker.replay", *paths, f"--counterexample={finding}={job.scratch / name}"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1


class Gated(nn.Module):
    """A network one layer of which only decides where an argmax is, and one that nothing reads."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.gate, self.unused = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits, which the gate turns over where its first entry is largest, and what the loss does not read."""
        turned = self.gate(x).argmax(-1, keepdim=True) == 0
        logits: torch.Tensor = self.used(x)
        return torch.where(turned, -logits, logits), self.unused(x)


class FirstOnly(Gated):
    """The same, trained on its first output."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Return the logits."""
        return super().forward(x)[0]


def write_gated(folder: Path, budget_passes: int = 7) -> AuditInput:
    sets, search = [{"norm": 2, "epsilon": [3.0]}], {"budget_passes": budget_passes, "random_trials": 3}
    job = write_job(folder, FirstOnly(), scopes=["model", "per_module"], sets=sets, search=search)
    torch.manual_seed(0)
    torch.jit.trace(Gated().eval(), torch.zeros(2, 4)).save(str(job.model_path))
    return job


def test_weights_that_no_loss_reads_are_skipped_with_a_reason_and_a_flag(tmp_path: Path) -> None:
    measured = run(write_gated(tmp_path))
    assert {(entry.name, entry.reason) for entry in measured.coverage.skipped} == {
        ("unused.weight", "no_gradient_path"),
        ("unused.bias", "no_gradient_path"),
    }
    assert measured.coverage.weights_audited == 30
    assert measured.coverage.weights_total == 45
    assert ("no_parameters", "unused") in {(flag.code, flag.scope) for flag in measured.flags}


def test_a_scope_that_no_gradient_reaches_is_searched_from_elsewhere(tmp_path: Path) -> None:
    measured = run(write_gated(tmp_path, budget_passes=40))
    flags = {(flag.code, flag.scope): flag.severity for flag in measured.flags}
    assert flags["zero_gradient", "gate"] == "warning"
    assert "no_gradient" not in {code for code, _ in flags}
    gate = next(finding for finding in measured.findings if finding.scope.name == "gate")
    assert gate.predicted.loss_change == 0.0
    assert gate.measured.loss_change is not None
    assert gate.measured.loss_change > 0
    assert gate.measured.method == "random"


def test_a_model_that_no_gradient_reaches_is_a_critical_flag(tmp_path: Path) -> None:
    class Stepped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            """Return logits of whole numbers."""
            logits: torch.Tensor = self.layer(x).mul(4).round().detach()
            return logits

    job = write_job(tmp_path, scopes=["model"])
    torch.jit.trace(Stepped().eval(), torch.zeros(2, 4)).save(str(job.model_path))
    assert ("no_gradient", "critical") in {(flag.code, flag.severity) for flag in run(job).flags}


def test_softmax_at_the_end_is_a_critical_flag(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(4, 3), nn.Softmax(-1))
    measured = run(write_job(tmp_path, network, scopes=["model"]))
    assert [(flag.code, flag.severity) for flag in measured.flags] == [("softmax_at_the_end", "critical")]


def test_named_scopes_match_by_glob_and_a_miss_is_explained(tmp_path: Path) -> None:
    measured = run(write_job(tmp_path, scopes=[{"name": "biases", "match": "*.bias"}]))
    assert [(f.scope.kind, f.scope.name, f.scope.weights) for f in measured.findings] == [("named", "biases", 11)]
    assert measured.coverage.weights_audited == 11
    (tmp_path / "b").mkdir()
    with pytest.raises(ScopeError) as caught:
        run(write_job(tmp_path / "b", scopes=[{"name": "heads", "match": "head.*"}, {"name": "tails", "match": "tail.*"}]))
    assert len(caught.value.faults) == 2


def test_a_breaking_point_scope_that_does_not_exist_is_explained(tmp_path: Path) -> None:
    points = [{"limit": {"loss_change": 0.5}, "scope": "absent"}]
    with pytest.raises(ScopeError, match="absent"):
        run(write_job(tmp_path, breaking_points=points))


def test_a_model_without_weights_and_data_that_does_not_fit_are_refused(tmp_path: Path) -> None:
    job = write_job(tmp_path, scopes=["model"])
    torch.jit.trace(nn.ReLU(), torch.ones(2, 4)).save(str(tmp_path / "bare.pt"))
    with pytest.raises(NoParameters):
        run(replace(job, model_path=tmp_path / "bare.pt"))
    np.savez(tmp_path / "wide.npz", inputs=np.ones((5, 7), np.float32), labels=np.arange(5) % 3)
    with pytest.raises(DataMismatch):
        run(replace(job, data_path=tmp_path / "wide.npz"))


def test_progress_counts_up_to_the_number_of_cells(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    measure_audit(write_job(tmp_path, scopes=["model", "per_module"]), lambda *step: seen.append(step))
    searched = [(done, total) for phase, done, total in seen if phase == "search"]
    assert searched == [(i, 3) for i in range(4)]


def test_the_report_does_not_depend_on_labels_or_policy(tmp_path: Path) -> None:
    job = write_job(tmp_path, scopes=["model"])
    measured = run(job)
    labelled = build_request(scopes=["model"], labels={"branch": "main"}, fresh=True)
    reports = [assemble_report(request, DIGEST_OF_REQUEST, measured, 1, {}) for request in (job.request, labelled)]
    assert canonical_bytes(reports[0]) == canonical_bytes(reports[1])
