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

from schemas.bounds import Interval
from schemas.errors import DataMismatch
from schemas.report import Finding, Measurement
from tests.worker.audits import DIGEST, build_request, write_job
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


LIMITS = [
    {"data": {"uri": f"artifact:sha256:{DIGEST}", "max_examples": 90}},
    {"precision": {"thresholds": [{"loss_change_at_most": 0.5}]}},
    {"evaluate_on": {"uri": f"artifact:sha256:{DIGEST}"}},
]


def write_own_loss(folder: Path, reduction: str, **fields: Any) -> tuple[AuditInput, AuditInput]:
    """Return an audit of a model that gives its own loss, and one of the same network with the built-in loss."""
    torch.manual_seed(0)
    network = WithLoss(reduction).eval()
    x, y = torch.randn(300, 4), torch.arange(300) % 3
    torch.jit.trace(network, (x[:3], y[:3])).save(str(folder / "own.pt"))
    torch.jit.trace(network.layer, x[:3]).save(str(folder / "plain.pt"))
    np.savez(folder / "data.npz", x=x.numpy(), y=y.numpy(), inputs=x.numpy(), labels=y.numpy())
    jobs = []
    for name, objective in (("own", {"loss": "model_output", "output": 1}), ("plain", {})):
        (folder / name).mkdir()
        request = build_request(sets=SETS, scopes=["model"], objective=objective, **fields)
        jobs.append(AuditInput(request, folder / f"{name}.pt", folder / "data.npz", folder / name))
    return jobs[0], jobs[1]


@pytest.mark.parametrize("limits", LIMITS)
def test_losses_of_every_example_give_the_limits_of_the_built_in_loss(limits: dict[str, Any], tmp_path: Path) -> None:
    own, plain = (
        measure_audit(replace(job, held_out_path=job.data_path), lambda *_: None)
        for job in write_own_loss(tmp_path, "none", **limits)
    )
    assert own.clean.loss == pytest.approx(plain.clean.loss, rel=1e-5)
    ours, theirs = own.findings[0], plain.findings[0]
    assert ours.measured.loss_change == pytest.approx(theirs.measured.loss_change, rel=1e-4)
    for mine, other in ((ours.measured.interval, theirs.measured.interval), (_find_limits(ours), _find_limits(theirs))):
        assert (mine is None) == (other is None)
        for name in ("lower", "upper"):
            wanted = getattr(other, name, None)
            assert getattr(mine, name, None) == (None if wanted is None else pytest.approx(wanted, rel=1e-4))


def _find_limits(finding: Finding) -> Interval | None:
    return None if finding.held_out is None else finding.held_out.interval


@pytest.mark.parametrize(
    ("limits", "where"), [(LIMITS[0], "/data/max_examples"), (LIMITS[1], "/precision"), (LIMITS[2], "/evaluate_on")]
)
def test_one_number_for_all_examples_gives_no_limits(limits: dict[str, Any], where: str, tmp_path: Path) -> None:
    own, _ = write_own_loss(tmp_path, "mean", **limits)
    with pytest.raises(DataMismatch) as caught:
        measure_audit(replace(own, held_out_path=own.data_path), lambda *_: None)
    assert [fault.where for fault in caught.value.faults] == [where]


def test_a_sum_over_the_batch_is_no_loss(tmp_path: Path) -> None:
    own, _ = write_own_loss(tmp_path, "sum")
    with pytest.raises(DataMismatch, match="not the mean over its examples"):
        measure_audit(own, lambda *_: None)


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
        {"objective": {"loss": "program"}},
        {"objective": {"loss": "mse", "program": {"uri": f"artifact:sha256:{DIGEST}"}}},
        {"objective": {"loss": "program", "program": {"uri": f"artifact:sha256:{DIGEST}"}, "metrics": ["perplexity"]}},
        {"objective": {"metrics": ["f1"]}, "precision": {"relative_error": 0.1}},
    ],
)
def test_objectives_that_mean_nothing_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        build_request(**fields)
    assert build_request(objective={"loss": "nll", "output_kind": "log_probabilities"}).objective.metric_names == ("accuracy",)
