"""Whole audits of torch.export files: the figures are those of the same network from a TorchScript file."""

import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from schemas.report import Measurement
from tests.worker.audits import write_job
from worker.audit import AuditInput, measure_audit


def measure(job: AuditInput) -> Measurement:
    return measure_audit(job, lambda *_: None)


@pytest.mark.parametrize("batch", ["dynamic", "fixed"])
def test_an_audit_has_the_figures_of_the_torchscript_file(batch: str, tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    sets = [{"norm": 2, "epsilon": [0.1, 0.5]}, {"norm": "inf", "epsilon": [0.05]}]
    job = write_job(tmp_path, network, sets=sets, scopes=["model", "per_module", "per_component", "per_depth"])
    path = tmp_path / "model.pt2"
    shapes = ({0: torch.export.Dim.DYNAMIC},) if batch == "dynamic" else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(network.eval(), (torch.zeros(16, 4),), dynamic_shapes=shapes), path)
    ours, theirs = measure(replace(job, model_path=path)), measure(job)
    assert ours.format == "pt2"
    assert ours.producer == f"pytorch {torch.__version__}"
    assert ours.environment.parity == 0.0
    assert ours.clean.loss == pytest.approx(theirs.clean.loss, rel=1e-6)
    assert [finding.scope for finding in ours.findings] == [finding.scope for finding in theirs.findings]
    for mine, other in zip(ours.findings, theirs.findings, strict=True):
        assert mine.first_order.loss_change == pytest.approx(other.first_order.loss_change, rel=1e-4, abs=1e-6)
        assert mine.measured.loss_change == pytest.approx(other.measured.loss_change, rel=1e-3, abs=1e-5)
