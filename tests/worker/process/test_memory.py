"""The audit process where memory runs out for real: it goes on with fewer examples at a time, or says how much it needs."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from schemas.errors import MemoryLimit
from schemas.report import Measurement
from tests.worker.audits import build_request
from worker.audit import AuditInput
from worker.messages import ChildMessage, FailureMessage, JobMessage, ResultMessage, encode_line, parse_line

MIB = 2**20
WIDE = 2**16
"""Two activations of this width: half a mebibyte per example."""
EXAMPLES = 256


class Wide(nn.Module):
    """A small network whose activations are far larger than its weights."""

    def __init__(self, wide: int) -> None:
        super().__init__()
        self.inner, self.outer, self.wide = nn.Linear(4, 16), nn.Linear(1, 3), wide

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Repeat the inner features, bend them, and average them again."""
        features = self.inner(x).repeat(1, self.wide // 16).tanh()
        result: torch.Tensor = self.outer(features.mean(1, keepdim=True))
        return result


def write_wide(folder: Path, wide: int = WIDE) -> AuditInput:
    torch.manual_seed(0)
    network, inputs = Wide(wide).eval(), torch.randn(EXAMPLES, 4)
    with torch.no_grad():
        np.savez(folder / "data.npz", inputs=inputs.numpy(), labels=(inputs[:, 0] > 0).long().numpy())
        torch.jit.trace(network, inputs[:2]).save(str(folder / "model.pt"))
    (folder / "scratch").mkdir()
    request = build_request(scopes=["model"], search={"budget_passes": 4, "random_trials": 1})
    return AuditInput(request, folder / "model.pt", folder / "data.npz", folder / "scratch")


def run_child(job: AuditInput, memory_bytes: int) -> ChildMessage:
    """Run the job in a real audit process that may allocate `memory_bytes` beyond its imports; return its last word."""
    message = JobMessage(
        request=job.request.model_dump(mode="json"),
        model_path=str(job.model_path),
        data_path=str(job.data_path),
        memory_bytes=memory_bytes,
        file_bytes=MIB,
    )
    options = {"--device": "cpu", "--threads": "1", "--sandbox": "best", "--parent": str(os.getpid())}
    command = [sys.executable, "-m", "worker.child", *(part for pair in options.items() for part in pair)]
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd()), "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(command, input=encode_line(message), capture_output=True, cwd=job.scratch, env=environment, check=False)
    assert done.stdout, done.stderr.decode()
    return parse_line(done.stdout.splitlines()[-1])


def measure(job: AuditInput, memory_bytes: int) -> Measurement:
    last = run_child(job, memory_bytes)
    assert isinstance(last, ResultMessage), last
    return last.measurement


def refuse(job: AuditInput, memory_bytes: int) -> MemoryLimit:
    last = run_child(job, memory_bytes)
    assert isinstance(last, FailureMessage)
    error = last.to_error()
    assert isinstance(error, MemoryLimit)
    return error


def list_figures(measured: Measurement) -> list[float]:
    [finding] = measured.findings
    assert finding.measured.loss_change is not None
    assert finding.first_order.loss_change is not None
    return [measured.clean.loss, finding.predicted.loss_change, finding.first_order.loss_change, finding.measured.loss_change]


def read_needed_gib(error: MemoryLimit) -> float:
    [fault] = error.faults
    assert fault.expected.startswith("at least ")
    return float(fault.expected.removeprefix("at least ").removesuffix(" GiB"))


def test_an_audit_short_of_memory_goes_on_with_fewer_examples_at_a_time(tmp_path: Path) -> None:
    job = write_wide(tmp_path)
    roomy, tight = measure(job, 1024 * MIB), measure(job, 80 * MIB)
    assert [flag for flag in roomy.flags if flag.code == "micro_batch_reduced"] == []
    [flag] = [flag for flag in tight.flags if flag.code == "micro_batch_reduced"]
    planned = roomy.environment.micro_batch
    assert flag.evidence["planned"] == planned > tight.environment.micro_batch == flag.evidence["micro_batch"]
    for one, other in zip(list_figures(roomy), list_figures(tight), strict=True):
        assert abs(one - other) <= 1e-5 * (abs(one) + roomy.clean.loss)


def test_one_example_that_does_not_fit_is_refused_with_what_it_needs(tmp_path: Path) -> None:
    wide = 2**25
    error = refuse(write_wide(tmp_path, wide), 200 * MIB)
    # The repeated features and their tanh, each 4 bytes wide; the rest is small.
    assert read_needed_gib(error) == pytest.approx(2 * 4 * wide / 2**30, rel=0.05)


def test_a_model_larger_than_the_memory_is_refused_before_it_is_read(tmp_path: Path) -> None:
    job = write_wide(tmp_path)
    with job.model_path.open("r+b") as file:
        file.truncate(3 * 2**30)
    assert read_needed_gib(refuse(job, 500 * MIB)) == 3.0


def test_a_model_whose_gradient_does_not_fit_is_refused_with_what_it_needs(tmp_path: Path) -> None:
    job = write_wide(tmp_path)
    network = nn.Linear(4, 3 * 2**21)
    torch.jit.trace(nn.Sequential(network, nn.Unflatten(1, (3, -1)), nn.AvgPool1d(2**21), nn.Flatten()), torch.zeros(2, 4)).save(
        str(job.model_path)
    )
    weights = 4 * sum(weight.numel() for weight in network.parameters())
    assert read_needed_gib(refuse(job, 2 * weights)) >= 2 * weights / 2**30
