"""What can be compared between two models: the normalised loss by its definition, and what the report says."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from schemas.report import Measurement
from tests.worker.audits import write_job
from worker.audit import AuditInput, measure_audit
from worker.engine.counterexample import load_counterexample
from worker.engine.objective import Objective

SETS = [{"norm": 2, "epsilon": [0.3], "scale": scale} for scale in ("absolute", "elementwise", "tensor")] + [{"rounding": "int8"}]


def run(job: AuditInput) -> Measurement:
    return measure_audit(job, lambda *_: None)


def normalise_plainly(logits: list[list[float]], labels: list[int]) -> float:
    """Return the mean cross-entropy of logits divided by their standard deviation, with Python's numbers."""
    total = 0.0
    for row, label in zip(logits, labels, strict=True):
        mean = math.fsum(row) / len(row)
        spread = math.sqrt(math.fsum((z - mean) ** 2 for z in row) / len(row))
        scaled = [(z - mean) / spread for z in row]
        total += math.log(math.fsum(map(math.exp, scaled))) - scaled[label]
    return total / len(labels)


def draw() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(9, 5, generator=generator, dtype=torch.float64), torch.randint(0, 5, (9,), generator=generator)


def test_the_normalised_loss_is_that_of_its_definition() -> None:
    logits, labels = draw()
    losses = Objective().normalise().compute_losses(logits, labels)
    assert float(losses.mean()) == pytest.approx(normalise_plainly(logits.tolist(), labels.tolist()), rel=1e-12)


def test_it_does_not_move_with_the_scale_of_the_logits_and_the_raw_loss_does() -> None:
    logits, labels = draw()
    for factor, shift in ((7.0, 0.0), (0.01, 3.0)):
        moved = factor * logits + shift
        raw, normalised = (
            [float(one.compute_losses(z, labels).mean()) for z in (logits, moved)]
            for one in (Objective(), Objective().normalise())
        )
        assert normalised[0] == pytest.approx(normalised[1], rel=1e-12)
        assert abs(raw[0] - raw[1]) > 0.01


@pytest.mark.parametrize("kind", ["probabilities", "log_probabilities"])
def test_it_is_the_same_from_probabilities(kind: str) -> None:
    logits, labels = draw()
    output = logits.softmax(-1) if kind == "probabilities" else logits.log_softmax(-1)
    given = Objective(output_kind=kind).normalise().compute_losses(output, labels)
    torch.testing.assert_close(given, Objective().normalise().compute_losses(logits, labels))


def test_logits_that_are_all_equal_have_the_loss_of_chance() -> None:
    losses = Objective().normalise().compute_losses(torch.full((3, 4), 2.5), torch.tensor([0, 1, 2]))
    assert losses.tolist() == pytest.approx([math.log(4)] * 3)


def test_the_report_gives_it_beside_the_raw_loss(tmp_path: Path) -> None:
    job = write_job(tmp_path, scopes=["model"])
    measured = run(job)
    [finding] = measured.findings
    network = torch.jit.load(str(job.model_path))
    with np.load(job.data_path) as data, torch.no_grad():
        inputs, labels = torch.from_numpy(data["inputs"]), data["labels"].tolist()
        clean = normalise_plainly(network(inputs).tolist(), labels)
        pieces = load_counterexample(job.scratch / measured.counterexamples[finding.id])["loss"]
        for name, parameter in network.named_parameters():
            parameter.view(-1)[pieces[name].indices] += pieces[name].values.float()
        corrupted = normalise_plainly(network(inputs).tolist(), labels)
    assert measured.clean.normalised_loss == pytest.approx(clean, rel=1e-5)
    assert finding.normalised_loss_change == pytest.approx(corrupted - clean, rel=1e-4)
    assert finding.normalised_loss_change != pytest.approx(finding.measured.loss_change, rel=0.01)


@pytest.mark.parametrize(
    "fields", [{"theory": {"normalised_loss": False}}, {"objective": {"loss": "kl_to_clean"}}, {"data": {"max_examples": 40}}]
)
def test_it_is_left_out_where_it_means_nothing_or_is_not_wanted(tmp_path: Path, fields: dict[str, Any]) -> None:
    uri = write_job(tmp_path).request.data.uri
    if "data" in fields:
        fields["data"]["uri"] = uri
    (tmp_path / "again").mkdir()
    measured = run(write_job(tmp_path / "again", scopes=["model"], **fields))
    assert measured.clean.normalised_loss is None
    assert {finding.normalised_loss_change for finding in measured.findings} == {None}
    assert "normalised_loss_change" not in {one.figure for one in measured.comparability}


def test_models_compare_by_figures_that_no_rescaling_moves(tmp_path: Path) -> None:
    measured = run(write_job(tmp_path, scopes=["model"], sets=SETS))
    comparable = {(one.figure, one.scale) for one in measured.comparability if one.between_models}
    assert len(measured.comparability) == 3 * 4
    assert comparable == {
        (figure, scale)
        for figure in ("accuracy", "normalised_loss_change")
        for scale in ("elementwise", "tensor", "rounding_int8")
    }
    by_key = {(one.figure, one.scale): one for one in measured.comparability}
    assert by_key["loss_change", "elementwise"].invariant_to == ("weight_rescaling", "tensor_rescaling")
    assert by_key["loss_change", "absolute"].invariant_to == ()
    assert by_key["accuracy", "absolute"].invariant_to == ("logit_scale",)
    assert "logits" in by_key["loss_change", "tensor"].reason
    assert "units of the weights" in by_key["accuracy", "absolute"].reason


def test_a_squared_error_has_the_units_of_the_labels(tmp_path: Path) -> None:
    job = write_job(tmp_path, nn.Linear(4, 3), scopes=["model"], sets=SETS[1:2], objective={"loss": "mse"})
    with np.load(job.data_path) as data:
        np.savez(job.data_path, inputs=data["inputs"], labels=np.eye(3, dtype=np.float32)[data["labels"]])
    assert all(one.between_models for one in run(job).comparability)
