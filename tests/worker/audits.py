"""Small trained models, data and requests for tests of whole audits."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from schemas.request import AuditRequest
from worker.audit import AuditInput

DIGEST = "0" * 64
"""Stands for an artifact; the engine is given paths."""


def build_request(**fields: Any) -> AuditRequest:
    """Return a request with small budgets; `fields` override."""
    body: dict[str, Any] = {
        "model": {"uri": f"artifact:sha256:{DIGEST}"},
        "data": {"uri": f"artifact:sha256:{DIGEST}"},
        "sets": [{"norm": 2, "epsilon": [0.3]}],
        "search": {"budget_passes": 7, "random_trials": 3},
    }
    return AuditRequest.model_validate(body | fields)


def train_blobs(network: nn.Module, classes: int = 3, steps: int = 80) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Train `network` on seeded Gaussian blobs in four dimensions; return inputs and labels."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(90) % classes
    inputs = torch.randn(90, 4, generator=generator) * 0.5 + torch.eye(4)[labels] * 2
    optimiser = torch.optim.Adam(network.parameters(), 0.02)
    for _ in range(steps):
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(inputs), labels).backward()
        optimiser.step()
    return inputs.numpy(), labels.numpy()


def write_job(folder: Path, network: nn.Module | None = None, scratch: str = "scratch", **fields: Any) -> AuditInput:
    """Train and trace `network` (default: a small MLP), save it with its data, and return the job."""
    torch.manual_seed(0)
    chosen = network or nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    inputs, labels = train_blobs(chosen)
    np.savez(folder / "data.npz", inputs=inputs, labels=labels)
    torch.jit.trace(chosen.eval(), torch.from_numpy(inputs[:4])).save(str(folder / "model.pt"))
    (folder / scratch).mkdir()
    return AuditInput(build_request(**fields), folder / "model.pt", folder / "data.npz", folder / scratch)
