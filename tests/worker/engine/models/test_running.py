"""Running statistics as weights: values stay, gradients appear, in every format."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.worker.audits import write_job
from worker.audit import measure_audit
from worker.engine.components import find_components
from worker.engine.counterexample import load_counterexample
from worker.engine.models.load import load_program, measure_parity
from worker.engine.models.running import audit_statistics, make_differentiable

EPSILON = 1e-5
ELEMENTWISE = [{"norm": "inf", "epsilon": [0.3], "scale": "elementwise"}]


class Normed(nn.Module):
    """A convolution, a normalisation that no exporter folds away because a ReLU lies between, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm, self.head = nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.Linear(3 * 3 * 3, 2)
        with torch.no_grad():
            self.norm.running_mean.copy_(torch.tensor([0.1, -0.2, 0.3]))  # type: ignore[union-attr]
            self.norm.running_var.copy_(torch.tensor([0.5, 1.5, 2.0]))  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, 2]."""
        normed: Tensor = self.head(self.norm(self.convolution(x).relu()).flatten(1))
        return normed


def write(folder: Path, kind: str) -> tuple[nn.Module, Path]:
    torch.manual_seed(0)
    network, example = Normed().eval(), torch.zeros(2, 1, 4, 4)
    path = folder / f"model.{kind}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "pt":
            torch.jit.trace(network, example).save(str(path))
        elif kind == "pt2":
            sizes = ({0: torch.export.Dim("batch", min=1, max=64)},)
            torch.export.save(torch.export.export(network, (example,), dynamic_shapes=sizes), path)
        else:
            axes = {"x": {0: "batch"}}
            torch.onnx.export(network, (example,), str(path), dynamo=False, input_names=["x"], dynamic_axes=axes)
    return network, path


def normalise_plainly(x: Tensor, gain: Tensor, shift: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Return the definition, which autograd differentiates by itself."""
    shape = (1, -1, 1)
    return (x - mean.view(shape)) / (variance.view(shape) + EPSILON).sqrt() * gain.view(shape) + shift.view(shape)


def draw_inputs() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, gain, shift, mean, variance = (torch.randn(s, generator=generator).double() for s in ((4, 3, 5), 3, 3, 3, 3))
    return [tensor.requires_grad_() for tensor in (x, gain, shift, mean, variance.abs() + 0.5)]


def batch_norm(x: Tensor, gain: Tensor, shift: Tensor, mean: Tensor, variance: Tensor, *, eps: float) -> Tensor:
    return functional.batch_norm(x, mean, variance, gain, shift, training=False, eps=eps)


def differentiate_twice(y: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    first = torch.autograd.grad(y.pow(3).sum(), inputs, create_graph=True)
    return [*first, *torch.autograd.grad(torch.stack([(g * g).sum() for g in first]).sum(), inputs)]


def test_first_and_second_derivatives_are_those_of_the_definition() -> None:
    inputs = draw_inputs()
    ours = differentiate_twice(make_differentiable(batch_norm, EPSILON)(*inputs, eps=EPSILON), inputs)
    expected = differentiate_twice(normalise_plainly(*inputs), inputs)
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)


def test_values_do_not_change_by_a_bit() -> None:
    given = [tensor.detach().float() for tensor in draw_inputs()]
    moving = make_differentiable(batch_norm, EPSILON)
    plain = batch_norm(*given, eps=EPSILON)
    assert torch.equal(moving(*given, eps=EPSILON), plain)
    given[3].requires_grad_()
    assert torch.equal(moving(*given, eps=EPSILON), plain)


def test_a_normalisation_without_gain_and_shift_has_gradients_too() -> None:
    x, _, _, mean, variance = draw_inputs()
    y = make_differentiable(batch_norm, EPSILON)(x, None, None, mean, variance, eps=EPSILON)
    ones, zeros = torch.ones(3).double(), torch.zeros(3).double()
    torch.testing.assert_close(y, normalise_plainly(x, ones, zeros, mean, variance))
    mine, theirs = (
        torch.autograd.grad(value.pow(3).sum(), [mean, variance])
        for value in (y, normalise_plainly(x, ones, zeros, mean, variance))
    )
    torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("kind", ["pt", "onnx", "pt2"])
def test_they_become_weights_only_when_asked_for(tmp_path: Path, kind: str) -> None:
    _, path = write(tmp_path, kind)
    program = load_program(path)
    skipped = {entry.name for entry in program.skipped if entry.reason == "running_statistic"}
    assert len(skipped) == 2
    assert skipped.isdisjoint(program.weights)

    asked = audit_statistics(program)
    assert asked.weights.keys() - program.weights.keys() == skipped == asked.statistics
    assert skipped.isdisjoint(entry.name for entry in asked.skipped)
    assert {asked.modules[name] for name in skipped} == {"norm"}
    components = find_components(asked)
    assert {name for name, component in components.items() if component == "running_statistics"} == skipped
    assert {name: components[name] for name in program.weights} == find_components(program)
    inputs = torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    names = [spec.name for spec in asked.inputs]
    assert measure_parity(path, asked, dict.fromkeys(names, inputs), 1) < 1e-5


@pytest.mark.parametrize("kind", ["pt", "onnx", "pt2"])
def test_gradients_are_those_of_the_network_that_was_exported(tmp_path: Path, kind: str) -> None:
    network, path = write(tmp_path, kind)
    program = audit_statistics(load_program(path)).cast(torch.float64)
    inputs = torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(1)).double()
    labels = torch.tensor([0, 1, 1, 0, 1, 0])
    leaves = {name: weight.clone().requires_grad_() for name, weight in program.weights.items()}
    [output] = program.forward(leaves, {program.inputs[0].name: inputs}).values()
    functional.cross_entropy(output, labels).backward()

    eager = network.double()
    mean, variance = (buffer.clone().requires_grad_() for buffer in (eager.norm.running_mean, eager.norm.running_var))  # type: ignore[operator,union-attr]
    features = eager.convolution(inputs).relu()  # type: ignore[operator]
    normed = normalise_plainly(features.flatten(2), eager.norm.weight, eager.norm.bias, mean, variance)  # type: ignore[arg-type,union-attr]
    functional.cross_entropy(eager.head(normed.flatten(1)), labels).backward()  # type: ignore[operator]
    found = {name.rpartition(".")[2]: leaves[name].grad for name in program.statistics}
    torch.testing.assert_close(found["running_mean"], mean.grad, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found["running_var"], variance.grad, rtol=1e-9, atol=1e-12)


def test_an_audit_searches_them_as_a_component_of_their_own(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.BatchNorm1d(8), nn.Linear(8, 3))
    job = write_job(tmp_path, network, scopes=["per_component"], running_statistics=True)
    measured = measure_audit(job, lambda *_: None)
    assert [entry.reason for entry in measured.coverage.skipped] == ["integer"]
    assert measured.coverage.weights_audited == sum(p.numel() for p in network.parameters()) + 2 * 8
    [finding] = [finding for finding in measured.findings if finding.scope.name == "running_statistics"]
    assert finding.scope.component == "running_statistics"
    assert finding.scope.weights == 16
    assert (finding.predicted.loss_change or 0) > 0
    assert finding.measured.loss_change is not None
    assert finding.measured.loss_change >= (finding.first_order.loss_change or 0) > 0


def test_what_was_found_does_to_the_network_what_the_report_says(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.BatchNorm1d(8), nn.Linear(8, 3))
    scopes = [{"name": "statistics", "match": "*running_*"}]
    job = write_job(tmp_path, network, scopes=scopes, running_statistics=True, sets=ELEMENTWISE)
    measured = measure_audit(job, lambda *_: None)
    [finding] = measured.findings
    pieces = load_counterexample(job.scratch / measured.counterexamples[finding.id])["loss"]
    buffers = dict(network.named_buffers())
    for name, piece in pieces.items():
        buffers[name].view(-1)[piece.indices] += piece.values.float()
    with np.load(job.data_path) as data, torch.no_grad():
        loss = functional.cross_entropy(network(torch.from_numpy(data["inputs"])), torch.from_numpy(data["labels"]))
    assert finding.measured.loss_change is not None
    assert float(loss) - measured.clean.loss == pytest.approx(finding.measured.loss_change, rel=1e-4)
    assert finding.measured.loss_change > 0.01
