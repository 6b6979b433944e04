"""Losses that a second file computes: the figures are those of the same loss, built in or in closed form."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto
from torch import Tensor, nn
from torch.nn import functional

from schemas.base import canonical_bytes
from schemas.errors import AuditError, DataMismatch, Fault, ModelRefused, ModelUnreadable, UnsupportedOperator
from schemas.report import Measurement
from schemas.request import AuditRequest
from tests.worker.audits import DIGEST, build_request, train_blobs, write_job
from tests.worker.engine.models.onnx.graphs import constant, initializer, node, save
from worker.audit import AuditInput, measure_audit
from worker.replay import replay
from worker.report import assemble_report

PROGRAM = {"uri": f"artifact:sha256:{'1' * 64}"}
GAMMA = 2.0


class TwoHeads(nn.Module):
    """Class scores and an embedding of each example."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return both."""
        body = self.body(x).tanh()
        return {"scores": self.head(body), "body": body.view(-1, 2, 3)}


def run(job: AuditInput) -> Measurement:
    return measure_audit(job, lambda *_: None)


def ask(**fields: Any) -> AuditRequest:
    objective = {"loss": "program", "program": PROGRAM, **fields.pop("objective", {})}
    return build_request(objective=objective, **{"scopes": ["model"], **fields})


def script(folder: Path, loss: nn.Module) -> Path:
    torch.jit.script(loss.eval()).save(str(folder / "loss.pt"))
    return folder / "loss.pt"


def with_loss(job: AuditInput, loss: Path, **fields: Any) -> AuditInput:
    return replace(job, request=ask(**fields), loss_path=loss)


def write_regression(folder: Path) -> tuple[nn.Module, AuditInput]:
    """Write a network with two outputs per example and float targets, some far away."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    inputs = torch.randn(300, 4)
    targets = (3 * torch.randn(300, 2)).numpy()
    np.savez(folder / "data.npz", inputs=inputs.numpy(), labels=targets)
    torch.jit.trace(network.eval(), inputs[:3]).save(str(folder / "model.pt"))
    (folder / "scratch").mkdir()
    return network, AuditInput(ask(), folder / "model.pt", folder / "data.npz", folder / "scratch")


def write_focal(folder: Path) -> Path:
    """Write (1 - p)^2 * -log p of each label's class as an ONNX graph; it holds a weight of its own."""
    steps = [
        node("LogSoftmax", ["logits"], ["logs"], axis=-1),
        constant("axis", np.array([1])),
        node("Unsqueeze", ["labels", "axis"], ["column"]),
        node("GatherElements", ["logs", "column"], ["picked"], axis=1),
        node("Squeeze", ["picked", "axis"], ["log"]),
        node("Exp", ["log"], ["p"]),
        node("Sub", ["one", "p"], ["rest"]),
        node("Pow", ["rest", "gamma"], ["factor"]),
        node("Mul", ["factor", "log"], ["negative"]),
        node("Neg", ["negative"], ["y"]),
    ]
    stored = [initializer("one", np.float32(1)), initializer("gamma", np.float32(GAMMA))]
    return save(folder, steps, stored=stored, inputs={"logits": TensorProto.FLOAT, "labels": TensorProto.INT64})


def differentiate(loss: Tensor, network: nn.Module) -> tuple[list[Tensor], float]:
    """Return the gradient of a loss by weight, and its length."""
    found = torch.autograd.grad(loss, list(network.parameters()), materialize_grads=True)
    return list(found), float(torch.cat([part.flatten() for part in found]).norm())


def compute_focal(logits: Tensor, labels: Tensor) -> Tensor:
    log = logits.log_softmax(-1).gather(1, labels[:, None])[:, 0]
    return -((1 - log.exp()) ** GAMMA) * log


def test_a_focal_loss_from_onnx_gives_the_figures_of_its_formula(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    job = write_job(tmp_path, network)
    (tmp_path / "loss").mkdir()
    job = with_loss(job, write_focal(tmp_path / "loss"), objective={"metrics": ["accuracy"]})
    measured = run(job)
    with np.load(job.data_path) as data:
        inputs, labels = torch.from_numpy(data["inputs"]), torch.from_numpy(data["labels"])
    loss = compute_focal(network(inputs), labels).mean()
    gradient, norm = differentiate(loss, network)
    assert measured.clean.loss == pytest.approx(loss.item(), rel=1e-5)
    assert measured.clean.metrics == {"accuracy": float((network(inputs).argmax(1) == labels).double().mean())}
    [finding] = measured.findings
    # The largest first-order rise within a ball of radius 0.3 is 0.3 times the gradient's length.
    assert finding.predicted.loss_change == pytest.approx(0.3 * norm, rel=1e-4)
    with torch.no_grad():
        for weight, slope in zip(network.parameters(), gradient, strict=True):
            weight.add_(slope, alpha=0.3 / norm)
        rise = float(compute_focal(network(inputs), labels).mean()) - measured.clean.loss
    assert finding.first_order.loss_change == pytest.approx(rise, rel=1e-3)
    assert (finding.measured.loss_change or 0) >= rise * (1 - 1e-6)
    # The loss's own numbers are no weights of the model.
    assert measured.coverage.weights_total == measured.coverage.weights_audited == sum(w.numel() for w in network.parameters())


class SmoothL1(nn.Module):
    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return functional.smooth_l1_loss(output, target, reduction="none").mean(1)


class MeanSmoothL1(nn.Module):
    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return functional.smooth_l1_loss(output, target)


@pytest.mark.parametrize("loss", [SmoothL1, MeanSmoothL1])
def test_a_smooth_l1_loss_from_torchscript_gives_the_figures_of_torch(loss: Callable[[], nn.Module], tmp_path: Path) -> None:
    network, job = write_regression(tmp_path)
    # More than one micro-batch, the last one smaller.
    measured = run(with_loss(job, script(tmp_path, loss())))
    with np.load(job.data_path) as data:
        inputs, targets = torch.from_numpy(data["inputs"]), torch.from_numpy(data["labels"])
    wanted = functional.smooth_l1_loss(network(inputs), targets)
    _, norm = differentiate(wanted, network)
    assert measured.clean.loss == pytest.approx(wanted.item(), rel=1e-5)
    assert measured.clean.metrics == {}
    assert measured.findings[0].predicted.loss_change == pytest.approx(0.3 * norm, rel=1e-4)


class CrossEntropy(nn.Module):
    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(logits, labels, reduction="none")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_loss_from_torch_export_gives_the_figures_of_the_built_in_one(tmp_path: Path) -> None:
    job = write_job(tmp_path, scopes=["model", "per_module"], sets=[{"norm": 2, "epsilon": [0.3], "max_corrupted": [None, 5]}])
    shapes = ({0: torch.export.Dim.DYNAMIC}, {0: torch.export.Dim.DYNAMIC})
    exported = torch.export.export(CrossEntropy(), (torch.randn(4, 3), torch.arange(4) % 3), dynamic_shapes=shapes)
    torch.export.save(exported, tmp_path / "loss.pt2")
    built_in = run(job)
    fields = {"scopes": ["model", "per_module"], "sets": [{"norm": 2, "epsilon": [0.3], "max_corrupted": [None, 5]}]}
    (tmp_path / "second").mkdir()
    own = run(
        replace(with_loss(job, tmp_path / "loss.pt2", objective={"metrics": ["accuracy"]}, **fields), scratch=tmp_path / "second")
    )
    assert own.clean == built_in.clean.model_copy(update={"normalised_loss": None})
    assert [finding.id for finding in own.findings] == [finding.id for finding in built_in.findings]
    for ours, theirs in zip(own.findings, built_in.findings, strict=True):
        assert ours.predicted.loss_change == pytest.approx(theirs.predicted.loss_change, rel=1e-5)
        assert ours.measured.loss_change == pytest.approx(theirs.measured.loss_change, rel=1e-4)
        assert ours.measured.metrics["accuracy"].value == theirs.measured.metrics["accuracy"].value


class Swapped(nn.Module):
    def forward(self, labels: Tensor, body: Tensor, scores: Tensor) -> Tensor:
        return functional.cross_entropy(scores, labels, reduction="none") + 0.5 * body.square().mean((1, 2))


def test_a_loss_of_two_outputs_reads_each_by_its_name(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = TwoHeads()
    inputs, labels = torch.randn(300, 4), torch.arange(300) % 3
    np.savez(tmp_path / "data.npz", inputs=inputs.numpy(), labels=labels.numpy())
    torch.jit.script(network.eval()).save(str(tmp_path / "model.pt"))
    (tmp_path / "scratch").mkdir()
    job = AuditInput(ask(), tmp_path / "model.pt", tmp_path / "data.npz", tmp_path / "scratch")
    measured = run(with_loss(job, script(tmp_path, Swapped())))
    found = network(inputs)
    wanted = functional.cross_entropy(found["scores"], labels) + 0.5 * found["body"].square().mean()
    _, norm = differentiate(wanted, network)
    assert measured.clean.loss == pytest.approx(wanted.item(), rel=1e-5)
    assert measured.findings[0].predicted.loss_change == pytest.approx(0.3 * norm, rel=1e-4)
    with pytest.raises(DataMismatch, match="one output and one label"):
        run(with_loss(job, script(tmp_path, Swapped()), objective={"metrics": ["accuracy"]}))


class Compactness(nn.Module):
    def forward(self, body: Tensor) -> Tensor:
        return body.square().mean((1, 2))


def test_a_loss_without_labels_needs_none(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = TwoHeads()
    inputs = torch.randn(20, 4)
    np.savez(tmp_path / "data.npz", inputs=inputs.numpy())
    torch.jit.script(network.eval()).save(str(tmp_path / "model.pt"))
    (tmp_path / "scratch").mkdir()
    job = AuditInput(ask(), tmp_path / "model.pt", tmp_path / "data.npz", tmp_path / "scratch")
    measured = run(with_loss(job, script(tmp_path, Compactness())))
    assert measured.clean.loss == pytest.approx(network(inputs)["body"].square().mean().item(), rel=1e-5)
    # The head has no path to this loss.
    assert measured.coverage.weights_audited == 30
    assert measured.coverage.weights_total == 30 + 21


def test_limits_hold_for_the_loss_of_a_file_as_for_the_built_in_one(tmp_path: Path) -> None:
    job = write_job(tmp_path)
    built_in = ask_limits(job, {"loss": "cross_entropy", "metrics": ["accuracy"]})
    own = ask_limits(job, {"loss": "program", "program": PROGRAM, "metrics": ["accuracy"]})
    loss = script(tmp_path, CrossEntropy())
    first = run(replace(job, request=built_in, held_out_path=job.data_path))
    (tmp_path / "second").mkdir()
    second = run(replace(job, request=own, held_out_path=job.data_path, loss_path=loss, scratch=tmp_path / "second"))
    for ours, theirs in zip(second.findings, first.findings, strict=True):
        for name in ("lower", "upper", "method", "sample"):
            limit = getattr(theirs.measured.interval, name)
            expected = pytest.approx(limit, rel=1e-4) if isinstance(limit, float) else limit
            assert getattr(ours.measured.interval, name) == expected
        assert ours.held_out is not None
        assert theirs.held_out is not None
        assert ours.held_out.loss_change == pytest.approx(theirs.held_out.loss_change, rel=1e-4)


def ask_limits(job: AuditInput, objective: dict[str, Any]) -> AuditRequest:
    data = {"uri": f"artifact:sha256:{DIGEST}"}
    return build_request(scopes=["model"], objective=objective, data=data | {"max_examples": 60}, evaluate_on=data)


def test_a_mean_is_refused_where_limits_are_asked_for(tmp_path: Path) -> None:
    _, job = write_regression(tmp_path)
    data = {"uri": f"artifact:sha256:{DIGEST}"}
    asked = with_loss(job, script(tmp_path, MeanSmoothL1()), data=data | {"max_examples": 60}, evaluate_on=data)
    faults = refuse(replace(asked, held_out_path=job.data_path))
    assert {fault.where for fault in faults} == {"/data/max_examples", "/evaluate_on"}
    assert all("reduction='none'" in fault.advice for fault in faults)


class SumSmoothL1(nn.Module):
    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return functional.smooth_l1_loss(output, target, reduction="sum")


class Centred(nn.Module):
    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return (output - target.mean(0)).square().mean(1)


class Elementwise(nn.Module):
    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return (output - target).square()


class Mismatched(nn.Module):
    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return (output @ target).mean(1)


class Three(nn.Module):
    def forward(self, output: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        return ((output - target) * weight).square().mean(1)


class Dropping(nn.Module):
    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return functional.dropout(output - target, 0.5, True).square().mean(1)


@pytest.mark.parametrize(
    ("loss", "what"),
    [
        (SumSmoothL1, "not the mean"),
        (Centred, "which others share its batch"),
        (Elementwise, "is no loss"),
        (Mismatched, "does not run on the first batch"),
        (Three, "not clear"),
        (Dropping, "training mode"),
    ],
)
def test_what_is_no_loss_is_refused_where_it_was_named(loss: Callable[[], nn.Module], what: str, tmp_path: Path) -> None:
    _, job = write_regression(tmp_path)
    [fault] = refuse(with_loss(job, script(tmp_path, loss())))
    assert what in fault.what
    assert fault.where == "/objective/program/uri"


def refuse(job: AuditInput) -> tuple[Fault, ...]:
    with pytest.raises(AuditError) as caught:
        run(job)
    return caught.value.faults


def test_labels_of_another_dtype_than_the_loss_takes_are_refused(tmp_path: Path) -> None:
    _, job = write_regression(tmp_path)
    (tmp_path / "loss").mkdir()
    [fault] = refuse(with_loss(job, write_focal(tmp_path / "loss")))
    assert (fault.where, fault.expected, fault.got) == ("/data/labels", "int64", "float32")


class WritesFiles(nn.Module):
    def __init__(self, target: str) -> None:
        super().__init__()
        self.target = target

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        torch.save(target, self.target)
        return (output - target).square().mean(1)


def test_hostile_files_are_refused_as_a_loss_as_they_are_as_a_model(tmp_path: Path) -> None:
    _, job = write_regression(tmp_path)
    bait = tmp_path / "bait"
    found = {}
    for name, path in {
        "a program": script(tmp_path, WritesFiles(str(bait))),
        "a pickle": write_bytes(tmp_path / "pickle", b"PK\x03\x04" + b"\x80\x04."),
        "noise": write_bytes(tmp_path / "noise", bytes(range(256))),
        "a foreign operator": save(tmp_path, [node("Read", ["x"], ["y"], domain="evil")], opsets={"": 20, "evil": 1}),
        "nothing": write_bytes(tmp_path / "nothing", b""),
    }.items():
        with pytest.raises((ModelRefused, ModelUnreadable, UnsupportedOperator)) as caught:
            run(with_loss(job, path))
        found[name] = caught.value.faults
    assert not bait.exists()
    for faults in found.values():
        assert all(fault.where.startswith("/objective/program/uri") and fault.what.startswith("the loss") for fault in faults)


def write_bytes(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_faults_of_model_data_and_loss_are_told_together(tmp_path: Path) -> None:
    job = write_job(tmp_path)
    train_blobs(nn.Linear(4, 3))
    np.savez(job.data_path, inputs=np.zeros((9, 4), np.float64), labels=np.zeros(9, np.int64))
    faults = refuse(with_loss(job, write_bytes(tmp_path / "nothing", b""), scopes=[{"name": "none", "match": "nothing*"}]))
    assert {fault.where.partition("#")[0] for fault in faults} >= {"/objective/program/uri", "/scopes"}


def test_the_report_names_the_file_and_replay_needs_it(tmp_path: Path) -> None:
    job = with_loss(write_job(tmp_path), script(tmp_path, CrossEntropy()), objective={"metrics": ["accuracy"]})
    measured = run(job)
    digests = dict.fromkeys(measured.counterexamples, "2" * 64)
    report = assemble_report(job.request, "3" * 64, measured, 1, digests)
    assert report.subject.objective is not None
    assert report.subject.objective.sha256 == "1" * 64
    assert canonical_bytes(report)
    files = {finding: job.scratch / name for finding, name in measured.counterexamples.items()}
    rows = list(replay(report, job.model_path, job.data_path, files, "cpu", loss=job.loss_path))
    assert {row["what"] for row in rows} == {"loss", "accuracy"}
    assert all(row["reported"] == row["remeasured"] for row in rows)
