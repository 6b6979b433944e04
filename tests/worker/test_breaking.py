"""Breaking points in n, against every corruption that there is: softmax regression is convex, so the worst ones are corners."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from schemas.report import BreakingPoint
from schemas.request import BreakingPointRequest
from tests.worker.audits import write_job
from worker.audit import AuditInput, measure_audit

EPSILON = 0.4
POINT = {"limit": {"loss_change": 0.25}, "along": "max_corrupted", "norm": "inf", "epsilon": EPSILON}


def write_regression(folder: Path, **fields: Any) -> tuple[AuditInput, nn.Linear]:
    job, network = write_job(folder, **fields), nn.Linear(4, 2, bias=False)
    with np.load(job.data_path) as data:
        inputs, labels = data["inputs"], data["labels"] % 2
    np.savez(job.data_path, inputs=inputs, labels=labels)
    torch.jit.trace(network, torch.zeros(2, 4)).save(str(job.model_path))
    return job, network


def find_worst_changes(job: AuditInput, network: nn.Linear) -> list[float]:
    """Return, for n from 0 to 8, the largest loss change that n weights moved by EPSILON can cause: all 3^8 corners."""
    with np.load(job.data_path) as data:
        inputs, labels = torch.from_numpy(data["inputs"]).double(), torch.from_numpy(data["labels"])
    corners = torch.tensor(list(itertools.product((-1.0, 0.0, 1.0), repeat=8)), dtype=torch.float64)
    weights = network.weight.detach().double() + EPSILON * corners.view(-1, 2, 4)
    logits = torch.einsum("kcd,nd->knc", weights, inputs)
    losses = -logits.log_softmax(-1)[:, torch.arange(len(labels)), labels].mean(1)
    changes, moved = losses - losses[(corners == 0).all(1)], corners.abs().sum(1)
    return [float(changes[moved <= n].max()) for n in range(9)]


def measure(job: AuditInput) -> BreakingPoint:
    [point] = measure_audit(job, lambda *_: None).breaking_points
    return point


@pytest.mark.parametrize("limit", [0.1, 0.25, 0.5, 100.0])
def test_the_smallest_number_of_weights_that_crosses_a_limit(tmp_path: Path, limit: float) -> None:
    point = POINT | {"limit": {"loss_change": limit}}
    job, network = write_regression(tmp_path, breaking_points=[point], search={"budget_passes": 64, "random_trials": 3})
    worst = find_worst_changes(job, network)
    expected = next((n for n, change in enumerate(worst) if change >= limit), None)
    found = measure(job)
    assert found.along == "max_corrupted"
    assert found.set == {"norm": "inf", "epsilon": EPSILON, "scale": "absolute", "range": [1.0, 1e12]}
    assert (found.bracket.hi, found.reached) == (expected, expected is not None)
    assert found.bracket.lo == (None if expected == 1 else (expected or 9) - 1)
    assert found.observed is not None
    assert found.observed <= worst[expected or 8] * (1 + 1e-4)


def test_without_sets_half_of_the_number_is_searched_everywhere(tmp_path: Path) -> None:
    job, _ = write_regression(tmp_path, breaking_points=[POINT], sets=None, scopes=["per_tensor"])
    measured = measure_audit(job, lambda *_: None)
    [point], [finding] = measured.breaking_points, measured.findings
    assert point.bracket.hi is not None
    assert finding.set.max_corrupted == max(1, int(point.bracket.hi / 2))
    assert finding.set.epsilon == EPSILON


@pytest.mark.parametrize(
    "changes",
    [{"epsilon": None}, {"max_corrupted": 3}, {"range": [1.5, 9]}, {"range": [9, 1]}, {"along": "epsilon"}],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        BreakingPointRequest.model_validate(POINT | changes)
