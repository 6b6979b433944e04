"""The sections that a request adds to a report: scopes by type and depth, theory, scales, held-out data, bit flips."""

import math
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from schemas.errors import DataMismatch, ScopeError
from tests.worker.audits import write_job
from tests.worker.test_audit import run
from worker.engine.counterexample import load_counterexample
from worker.engine.objective import Objective
from worker.report import assemble_report


def test_components_and_depth_are_scopes_and_stand_in_every_finding(tmp_path: Path) -> None:
    measured = run(write_job(tmp_path, scopes=["model", "per_module", "per_component", "per_depth"]))
    by_kind: dict[str, list[tuple[str, str | None, float | None, int]]] = {}
    for finding in measured.findings:
        scope = finding.scope
        by_kind.setdefault(scope.kind, []).append((scope.name, scope.component, scope.depth, scope.weights))
    assert by_kind == {
        "model": [("model", "linear", None, 67)],
        "per_module": [("0", "linear", 0.0, 40), ("2", "linear", 1.0, 27)],
        "per_component": [("linear", "linear", 0.0, 56), ("bias", "bias", 0.0, 11)],
        "per_depth": [("0.00-0.25", "linear", 0.0, 40), ("0.75-1.00", "linear", 1.0, 27)],
    }
    assert {ranking.kind for ranking in measured.ranking} == {"per_module", "per_component", "per_depth"}


def test_theory_is_reported_when_asked_for_and_holds(tmp_path: Path) -> None:
    sets = [{"norm": 2, "epsilon": [0.01, 3.0]}, {"norm": "inf", "epsilon": [0.001], "scale": "elementwise"}]
    plain = run(write_job(tmp_path, scratch="plain", sets=sets))
    assert all(f.upper_bound is None and f.smoothness is None and f.error_bound is None for f in plain.findings)
    measured = run(write_job(tmp_path, scratch="theory", sets=sets, theory={"upper_bounds": True, "smoothness": True}))
    for finding in measured.findings:
        assert finding.upper_bound is not None
        assert finding.smoothness is not None
        assert finding.upper_bound.loss_change is not None
        assert finding.upper_bound.loss_change >= (finding.measured.loss_change or 0.0)
        assert finding.upper_bound.metrics["accuracy"] >= (finding.measured.metrics["accuracy"].drop or 0.0)
        assert (finding.error_bound is None) == (finding.set.scale != "absolute")
    dominated = {flag.evidence["finding"] for flag in measured.flags if flag.code == "curvature_dominates"}
    beyond = {f.id for f in measured.findings if f.error_bound is not None and (f.error_bound.c or 0) >= 1}
    assert dominated == beyond
    assert beyond


def test_scaled_sets_and_roundings_are_audited(tmp_path: Path) -> None:
    sets = [
        {"norm": 2, "epsilon": [0.1], "scale": "tensor"},
        {"norm": "inf", "epsilon": [0.1], "scale": "elementwise"},
        {"rounding": "int8", "granularity": "per_channel"},
        {"rounding": "bf16"},
    ]
    measured = run(write_job(tmp_path, sets=sets, scopes=["model"]))
    given = [(f.set.scale, f.set.norm, f.set.epsilon) for f in measured.findings]
    expected = [
        ("tensor", 2.0, 0.1),
        ("elementwise", "inf", 0.1),
        ("rounding_int8_per_channel", "inf", 1.0),
        ("rounding_bf16", "inf", 1.0),
    ]
    assert given == expected
    assert all((f.measured.loss_change or 0) > 0 and f.set.change_per_weight is None for f in measured.findings)


@pytest.mark.parametrize("loss", ["label_free", "kl_to_clean"])
def test_without_labels_the_model_is_compared_with_itself(loss: str, tmp_path: Path) -> None:
    flips = [{"counts": [2], "kinds": ["sign", "mantissa"]}]
    sets = [{"norm": 2, "epsilon": [3.0]}]
    job = write_job(tmp_path, objective={"loss": loss}, sets=sets, bit_flips=flips, search={"budget_passes": 40})
    with np.load(job.data_path) as file:
        inputs = file["inputs"]
    np.savez(job.data_path, inputs=inputs)
    measured = run(job)
    network = torch.jit.load(str(job.model_path))
    logs = network(torch.from_numpy(inputs)).detach().double().log_softmax(-1)
    entropy = -float(logs.max(-1).values.mean())
    assert measured.clean.loss == pytest.approx(entropy if loss == "label_free" else 0.0, rel=1e-5, abs=1e-7)
    assert measured.clean.metrics == {"accuracy": 1.0}
    assert "label_free" in {flag.code for flag in measured.flags}
    whole = next(finding for finding in measured.findings if finding.scope.kind == "model")
    assert (whole.measured.loss_change or 0.0) > 0.1
    assert (whole.measured.metrics["accuracy"].drop or 0.0) > 0.05
    # Its gradient is zero at the clean weights, and flips do damage all the same.
    [found] = measured.bit_flips
    assert (found.results[0].loss_change or 0.0) > 0.1
    assert len(found.results[0].flips) == 2
    if loss == "kl_to_clean":
        assert whole.predicted.loss_change == 0.0
        assert "zero_gradient" in {flag.code for flag in measured.flags}


def test_divergence_from_the_clean_model_is_that_of_its_definition() -> None:
    clean, corrupted = torch.randn(2, 7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    objective = Objective("kl_to_clean")
    losses = objective.compute_losses(corrupted, objective.make_target(clean))
    for row, (before, after) in enumerate(zip(clean.tolist(), corrupted.tolist(), strict=True)):
        p, q = ([math.exp(z) / math.fsum(map(math.exp, logits)) for z in logits] for logits in (before, after))
        assert float(losses[row]) == pytest.approx(math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True)), rel=1e-9)


def test_corruptions_found_on_the_data_are_measured_on_held_out_examples(tmp_path: Path) -> None:
    held_out = {"uri": f"artifact:sha256:{'1' * 64}"}
    job = write_job(tmp_path, evaluate_on=held_out, objective={"metrics": ["accuracy", "error_rate"]}, confidence=0.9)
    with np.load(job.data_path) as file:
        inputs, labels = file["inputs"], file["labels"]
    halves = {"data": slice(0, None, 2), "other": slice(1, None, 2)}
    for name, part in halves.items():
        np.savez(tmp_path / f"{name}.npz", inputs=inputs[part], labels=labels[part])
    measured = run(replace(job, held_out_path=tmp_path / "other.npz"))
    network = torch.jit.load(str(job.model_path))
    assert measured.held_out_examples == measured.held_out_labels == 45
    finding = next(one for one in measured.findings if one.scope.kind == "model")
    file_name = measured.counterexamples[finding.id]
    piece = load_counterexample(job.scratch / file_name)["loss"]
    x, y = torch.from_numpy(inputs[halves["other"]]), torch.from_numpy(labels[halves["other"]])
    before = nn.functional.cross_entropy(network(x), y, reduction="none").detach().double()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name in piece:
                parameter.view(-1)[piece[name].indices] += piece[name].values.float()
    after = nn.functional.cross_entropy(network(x), y, reduction="none").detach().double()
    assert finding.held_out is not None
    assert finding.held_out.loss_change == pytest.approx(float((after - before).mean()), rel=1e-5)
    drop = finding.held_out.metrics["accuracy"]
    assert drop.drop_interval is not None
    assert drop.value_interval is not None
    assert drop.drop is not None
    assert drop.value is not None
    assert drop.drop_interval.confidence == drop.value_interval.confidence == 0.9
    assert (drop.drop_interval.lower or -1) <= drop.drop <= (drop.drop_interval.upper or 1)
    assert (drop.value_interval.method, drop.drop_interval.method) == ("clopper_pearson", "betting")
    assert finding.held_out.metrics["error_rate"].drop == pytest.approx(drop.drop)
    report = assemble_report(job.request, "0" * 64, measured, 1, {})
    assert report.subject.evaluate_on is not None
    assert report.subject.evaluate_on.sha256 == "1" * 64


def test_what_does_not_fit_in_the_held_out_data_is_told_there(tmp_path: Path) -> None:
    job = write_job(tmp_path, evaluate_on={"uri": f"artifact:sha256:{'1' * 64}"})
    np.savez(tmp_path / "other.npz", inputs=np.zeros((5, 4), np.float32), labels=np.full(5, 9))
    with pytest.raises(DataMismatch) as caught:
        run(replace(job, held_out_path=tmp_path / "other.npz"))
    assert [fault.where for fault in caught.value.faults] == ["/evaluate_on/labels"]


def test_bit_flips_are_searched_beside_random_ones_and_can_be_applied(tmp_path: Path) -> None:
    asked = [{"counts": [1, 3], "match": "*.weight", "kinds": ["sign", "mantissa"], "random_trials": 5}, {"counts": [2]}]
    job = write_job(tmp_path, scopes=["model"], bit_flips=asked)
    measured = run(job)
    chosen, everything = measured.bit_flips
    assert (chosen.weights, chosen.bits, everything.weights) == (56, 56 * 24, 67)
    assert [damage.count for damage in chosen.results] == [1, 3]
    few, more = chosen.results
    assert chosen.random is not None
    assert 0 < (few.loss_change or 0) <= (more.loss_change or 0)
    assert (more.loss_change or 0) > (chosen.random.largest_loss_change or 0)
    network = torch.jit.load(str(job.model_path))
    weights = dict(network.named_parameters())
    for flip in more.flips:
        stored = weights[flip.tensor].detach().view(-1)
        bits = struct.unpack("<I", struct.pack("<f", float(stored[flip.index])))[0] ^ (1 << flip.bit)
        stored[flip.index] = struct.unpack("<f", struct.pack("<I", bits))[0]
        assert float(stored[flip.index]) == flip.new
    with np.load(job.data_path) as file, torch.no_grad():
        loss = nn.functional.cross_entropy(network(torch.from_numpy(file["inputs"])), torch.from_numpy(file["labels"]))
    assert more.loss_change == pytest.approx(float(loss) - measured.clean.loss, rel=1e-4)


def test_bit_flips_in_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ScopeError) as caught:
        run(write_job(tmp_path, bit_flips=[{"counts": [1], "match": "head.*"}, {"counts": [1], "match": "tail.*"}]))
    assert len(caught.value.faults) == 2


def test_bit_flips_of_a_kind_that_the_weights_lack_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ScopeError) as caught:
        run(write_job(tmp_path, scopes=["model"], bit_flips=[{"counts": [5], "kinds": ["value"]}]))
    assert caught.value.faults[0].where == "/bit_flips"
    assert caught.value.faults[0].got == "value"
