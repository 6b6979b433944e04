"""Whole audits with other objectives than classes in the last axis."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional

from schemas.errors import DataMismatch
from schemas.report import Measurement
from tests.worker.audits import build_request, write_job
from worker.audit import AuditInput, measure_audit

SETS = [{"norm": 2, "epsilon": [0.3]}]


def run(folder: Path, network: nn.Module, arrays: dict[str, Any], names: list[str], **fields: Any) -> Measurement:
    folder.mkdir(exist_ok=True)
    given = tuple(torch.from_numpy(arrays[name][:3]) for name in names)
    torch.jit.trace(network.eval(), given).save(str(folder / "model.pt"))
    np.savez(folder / "data.npz", **arrays)
    (folder / "scratch").mkdir()
    request = build_request(sets=SETS, **fields)
    return measure_audit(AuditInput(request, folder / "model.pt", folder / "data.npz", folder / "scratch"), lambda *_: None)


def test_a_segmentation_network_is_audited(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Conv2d(1, 3, 3, padding=1)
    pixels = torch.randn(12, 1, 6, 5)
    labels = network(pixels).argmax(1)
    arrays = {"inputs": pixels.numpy(), "labels": labels.numpy()}
    objective = {"class_axis": 1, "metrics": ["accuracy", "f1"]}
    measured = run(tmp_path / "a", network, arrays, ["inputs"], objective=objective, scopes=["model"])
    with torch.no_grad():
        wanted = float(functional.cross_entropy(network(pixels), labels))
    assert measured.clean.loss == pytest.approx(wanted, rel=1e-5)
    assert measured.clean.metrics == {"accuracy": 1.0, "f1": 1.0}
    [finding] = measured.findings
    assert (finding.measured.metrics["f1"].drop or 0) > 0
    with pytest.raises(DataMismatch) as caught:
        run(tmp_path / "b", network, arrays, ["inputs"])
    assert caught.value.faults[0].advice == "set objective.class_axis to 1"


class WithLoss(nn.Module):
    """A network that computes its own loss."""

    def __init__(self, reduction: str) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.reduction = reduction

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and loss."""
        logits = self.layer(x)
        return logits, functional.cross_entropy(logits, y, reduction=self.reduction)


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_a_model_that_returns_its_loss_gives_the_figures_of_that_loss(reduction: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = WithLoss(reduction)
    # More than one micro-batch, the last one smaller.
    x, y = torch.randn(300, 4), torch.arange(300) % 3
    arrays = {"x": x.numpy(), "y": y.numpy()}
    objective = {"loss": "model_output", "output": 1}
    measured = run(tmp_path / "a", network, arrays, ["x", "y"], objective=objective, scopes=["model"])
    plain = run(tmp_path / "b", network.layer, {"inputs": x.numpy(), "labels": y.numpy()}, ["inputs"], scopes=["model"])
    assert measured.clean.metrics == {}
    assert measured.clean.loss == pytest.approx(plain.clean.loss, rel=1e-6)
    ours, theirs = measured.findings[0], plain.findings[0]
    assert ours.predicted.loss_change == pytest.approx(theirs.predicted.loss_change, rel=1e-4)
    assert ours.first_order.loss_change == pytest.approx(theirs.first_order.loss_change, rel=1e-4)


def test_an_output_that_is_no_loss_is_refused(tmp_path: Path) -> None:
    job = write_job(tmp_path)
    with pytest.raises(DataMismatch, match="no loss"):
        measure_audit(replace(job, request=build_request(objective={"loss": "model_output"})), lambda *_: None)


@pytest.mark.parametrize(
    "fields",
    [
        {"objective": {"loss": "nll"}},
        {"objective": {"loss": "mse", "class_axis": 1}},
        {"objective": {"loss": "model_output", "metrics": ["accuracy"]}},
        {"objective": {"loss": "model_output"}, "precision": {"relative_error": 0.1}},
        {"objective": {"loss": "model_output"}, "evaluate_on": {"uri": "artifact:sha256:" + "0" * 64}},
        {"objective": {"metrics": ["f1"]}, "precision": {"relative_error": 0.1}},
    ],
)
def test_objectives_that_mean_nothing_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        build_request(**fields)
    assert build_request(objective={"loss": "nll", "output_kind": "log_probabilities"}).objective.metric_names == ("accuracy",)
