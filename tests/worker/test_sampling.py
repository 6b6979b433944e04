"""Whole audits of sampled data: figures with limits for all of it, and as few examples as the question needs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from schemas.base import canonical_bytes
from schemas.report import Report
from tests.worker.audits import DIGEST, write_job
from tests.worker.test_audit import run
from worker.audit import AuditInput
from worker.engine.counterexample import load_counterexample
from worker.replay import replay
from worker.report import assemble_report

SETS = [{"norm": 2, "epsilon": [0.3, 3.0]}]
METRICS = {"metrics": ["accuracy", "error_rate", "perplexity"]}


def write_sampled(folder: Path, examples: int | None, scratch: str = "scratch", **fields: Any) -> AuditInput:
    """Return a job on 1,500 examples: those that the small network was trained on, moved a little."""
    data = {"uri": f"artifact:sha256:{DIGEST}", "max_examples": examples}
    job = write_job(folder, scratch=scratch, **({"data": data, "sets": SETS, "scopes": ["model"], "objective": METRICS} | fields))
    with np.load(job.data_path) as file:
        inputs, labels = np.tile(file["inputs"], (17, 1))[:1500], np.tile(file["labels"], 17)[:1500]
    moved = inputs + 0.8 * np.random.default_rng(0).standard_normal(inputs.shape)
    np.savez(job.data_path, inputs=moved.astype(np.float32), labels=labels)
    return job


def measure_by_hand(job: AuditInput, finding: str) -> dict[str, tuple[float, float]]:
    """Return loss and accuracy on all of the data under the corruption that the finding keeps for each of them."""
    measured: dict[str, tuple[float, float]] = {}
    with np.load(job.data_path) as file:
        x, y = torch.from_numpy(file["inputs"]), torch.from_numpy(file["labels"])
    for what, pieces in load_counterexample(job.scratch / f"{finding}.npz").items():
        network = torch.jit.load(str(job.model_path))
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if name in pieces:
                    parameter.view(-1)[pieces[name].indices] += pieces[name].values.float()
            output = network(x).double()
        measured[what] = float(nn.functional.cross_entropy(output, y)), float((output.argmax(-1) == y).double().mean())
    return measured


def assemble(job: AuditInput) -> Report:
    return assemble_report(job.request, "0" * 64, run(job), 1, {})


def test_a_sample_gives_limits_for_all_of_the_data(tmp_path: Path) -> None:
    job = write_sampled(tmp_path, 400, confidence=0.99)
    report = assemble(job)
    data = report.subject.data
    assert (data.examples, data.labels_counted, data.sampled, data.search_examples) == (1500, 1500, True, 400)
    for finding in report.findings:
        measured, accuracy = finding.measured, finding.measured.metrics["accuracy"]
        assert measured.examples == 400
        assert finding.first_order.kind == "estimate"
        assert measured.interval is not None
        assert accuracy.interval is not None
        assert accuracy.value_interval is not None
        methods = (measured.interval.method, accuracy.interval.method, accuracy.value_interval.method)
        assert methods == ("asymptotic_t", "betting", "hypergeometric")
        assert {measured.interval.confidence, accuracy.interval.confidence} == {0.99}
        assert (accuracy.interval.population, accuracy.interval.sample) == (1500, 400)
    worst = next(f for f in report.findings if f.set.epsilon == 3.0)
    truth = measure_by_hand(job, worst.id)
    accuracy = worst.measured.metrics["accuracy"]
    assert accuracy.value_interval is not None
    assert worst.measured.interval is not None
    right = truth.get("accuracy", truth["loss"])[1]
    assert (accuracy.value_interval.lower or 0) <= right <= (accuracy.value_interval.upper or 1)
    assert (accuracy.value_interval.upper or 1) - (accuracy.value_interval.lower or 0) < 0.15
    assert worst.measured.metrics["error_rate"].value == pytest.approx(1 - (accuracy.value or 0), abs=0.05)
    assert (worst.measured.interval.lower or 0) <= truth["loss"][0] - report.clean.loss


def test_precision_mode_stops_where_the_threshold_is_clear_and_uses_all_of_the_data_where_it_is_not(tmp_path: Path) -> None:
    clear = [{"metric": "accuracy", "drop_at_most": 0.25}]
    job = write_sampled(tmp_path, 300, precision={"thresholds": clear, "clean": {"accuracy_at_least": 0.8}})
    report = assemble(job)
    small, large = report.findings
    for finding in (small, large):
        interval = finding.measured.metrics["accuracy"].interval
        assert interval is not None
        assert interval.sample < 1500
        assert interval.lower is not None
        assert interval.upper is not None
        assert interval.upper <= 0.25 if finding is small else interval.lower > 0.25
    assert (report.clean.metric_intervals["accuracy"].lower or 0) >= 0.8
    truth = measure_by_hand(job, large.id)
    drop = truth.get("accuracy", truth["loss"])
    tie = [{"metric": "accuracy", "at_least": drop[1]}, {"loss_change_at_most": 100.0}]
    tied = assemble(write_sampled(tmp_path, 300, scratch="tied", precision={"thresholds": tie}))
    measured = tied.findings[1].measured
    exact = measured.metrics["accuracy"].value_interval
    assert exact is not None
    assert (exact.method, exact.sample, exact.lower, exact.upper) == ("exact", 1500, drop[1], drop[1])
    assert measured.examples == 1500  # an asymptotic limit of a loss never acquits
    assert measured.loss_change == pytest.approx(truth["loss"][0] - tied.clean.loss, rel=1e-5)


def test_a_breaking_point_is_where_limits_cross_and_stays_where_they_do_not(tmp_path: Path) -> None:
    asked = {"limit": {"metric": "accuracy", "drop": 0.1}, "range": [0.1, 30.0]}
    fields: dict[str, Any] = {"breaking_points": [asked], "search": {"budget_passes": 20}, "objective": {"metrics": ["accuracy"]}}
    [whole] = run(write_sampled(tmp_path, None, **fields)).breaking_points
    precision = {"thresholds": [{"metric": "accuracy", "drop_at_most": 0.5}]}
    [point] = run(write_sampled(tmp_path, 300, scratch="precise", precision=precision, **fields)).breaking_points
    assert whole.interval is whole.lo_interval is None
    assert point.interval is not None
    assert point.lo_interval is not None
    assert (point.interval.lower or 0) >= 0.1 > (point.lo_interval.upper or 1)
    assert 1 - point.interval.confidence == pytest.approx(0.05 / 9)  # nine epsilons at most, from 0.1 to 30
    assert point.bracket.hi is not None
    assert whole.bracket.hi is not None
    assert 0.9 * whole.bracket.hi < point.bracket.hi < 1.5 * whole.bracket.hi


def test_a_relative_error_is_kept_and_searches_on_a_sample_by_default(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"sets": [{"norm": 2, "epsilon": [3.0]}], "objective": {"metrics": ["accuracy"]}}
    job = write_sampled(tmp_path, None, precision={"relative_error": 0.3, "confidence": 0.9}, **fields)
    with np.load(job.data_path) as file:
        np.savez(job.data_path, inputs=np.tile(file["inputs"], (2, 1)), labels=np.tile(file["labels"], 2))
    report = assemble(job)
    assert (report.subject.data.examples, report.subject.data.search_examples) == (3000, 2000)
    [finding] = report.findings
    for figure, limits in (
        (finding.measured.loss_change, finding.measured.interval),
        (finding.measured.metrics["accuracy"].drop, finding.measured.metrics["accuracy"].interval),
    ):
        assert figure is not None
        assert limits is not None
        assert limits.confidence == 0.9
        assert limits.sample < 3000
        assert (limits.upper or 9) - figure <= 0.3 * figure
        assert figure - (limits.lower or 0) <= 0.3 * figure


def test_equal_requests_give_equal_bytes_and_another_seed_another_sample(tmp_path: Path) -> None:
    def audit(scratch: str, seed: int) -> bytes:
        search = {"budget_passes": 7, "random_trials": 3, "seed": seed}
        return canonical_bytes(run(write_sampled(tmp_path, 200, scratch=scratch, search=search)))

    assert audit("first", 1) == audit("second", 1) != audit("third", 2)


def test_a_sample_as_large_as_the_data_is_no_sample(tmp_path: Path) -> None:
    whole, all_of_it = (run(write_sampled(tmp_path, count, scratch=str(count))) for count in (None, 1500))
    assert canonical_bytes(whole) == canonical_bytes(all_of_it)
    assert all_of_it.search_examples is None
    assert all_of_it.findings[0].measured.interval is None


def test_what_speaks_of_all_of_the_data_is_not_claimed_of_a_sample(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"theory": {"upper_bounds": True}, "bit_flips": [{"counts": [1]}], "scopes": ["model"]}
    measured = run(write_sampled(tmp_path, 300, **fields))
    assert {finding.upper_bound.status for finding in measured.findings if finding.upper_bound} == {"not_available"}
    assert [flips.kind for flips in measured.bit_flips] == ["estimate"]


def test_a_counterexample_of_sampled_data_is_measured_again_on_the_same_examples(tmp_path: Path) -> None:
    job = write_sampled(tmp_path, 200)
    measured = run(job)
    report = assemble_report(job.request, "0" * 64, measured, 1, {})
    files = {name: job.scratch / file for name, file in measured.counterexamples.items()}
    rows = list(replay(report, job.model_path, job.data_path, files, "cpu"))
    assert {row["what"] for row in rows} == {"loss", "accuracy", "error_rate", "perplexity"}
    assert all(row["agrees"] for row in rows)
    shifted = json.loads(report.model_dump_json())
    shifted["findings"][0]["measured"]["metrics"]["accuracy"]["value"] += 0.01
    changed = Report.model_validate(shifted)
    again = list(replay(changed, job.model_path, job.data_path, {changed.findings[0].id: files[changed.findings[0].id]}, "cpu"))
    assert [row["what"] for row in again if not row["agrees"]] == ["accuracy"]
