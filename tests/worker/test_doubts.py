"""Flags that only a whole audit raises, each beside one that does not."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.worker.audits import DIGEST, write_job
from worker.audit import AuditInput, measure_audit

HELD_OUT = {"uri": f"artifact:sha256:{DIGEST}"}


def find_codes(job: AuditInput) -> set[str]:
    return {flag.code for flag in measure_audit(job, lambda *_: None).flags}


def test_a_file_that_was_saved_in_training_mode(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 3))
    job = write_job(tmp_path, network, scopes=["model"])
    assert "training_mode" not in find_codes(job)
    torch.jit.script(network.train()).save(str(job.model_path))
    assert "training_mode" in find_codes(job)


class Scaled(nn.Module):
    """Each output is one weight times the input, so the Hessian of the squared error is diagonal: its entries lie densely."""

    def __init__(self, weights: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(weights))
        self.slopes = torch.linspace(0.5, 1.0, weights)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [B, weights]."""
        return x[:, :1] * self.slopes * self.gain


@pytest.mark.parametrize(("weights", "raised"), [(10, False), (400, True)])
def test_a_curvature_that_few_steps_do_not_find(tmp_path: Path, weights: int, raised: bool) -> None:
    # Twenty steps are enough for ten weights, whatever the curvature.
    job = write_job(tmp_path, scopes=["model"], theory={"smoothness": True}, objective={"loss": "mse"})
    with np.load(job.data_path) as data:
        np.savez(job.data_path, inputs=data["inputs"], labels=np.zeros((90, weights), np.float32))
    torch.jit.trace(Scaled(weights).eval(), torch.zeros(2, 4)).save(str(job.model_path))
    assert ("smoothness_not_converged" in find_codes(job)) is raised


def write_held_out(folder: Path, copies: int, **fields: Any) -> AuditInput:
    job = write_job(folder, scopes=["model"], evaluate_on=HELD_OUT, **fields)
    with np.load(job.data_path) as data:
        repeated = {name: np.concatenate([data[name]] * copies) for name in data.files}
    np.savez(folder / "other.npz", allow_pickle=False, **repeated)
    return replace(job, held_out_path=folder / "other.npz")


def test_limits_of_a_loss_are_asymptotic_or_left_out(tmp_path: Path) -> None:
    for copies in (1, 3):
        (tmp_path / str(copies)).mkdir()
    few, many = (find_codes(write_held_out(tmp_path / str(copies), copies)) for copies in (1, 3))
    assert "interval_too_wide" in few
    assert "interval_too_wide" not in many
    assert "asymptotic_interval" in many
