"""Without a server: a service for the call, the service of `faultline up` beside it, a replay, and nothing left behind."""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from schemas.base import compute_sha256
from tests.client.conftest import Faultline
from tests.project.tree import BIN

SETS = ("--set", "norm=2,epsilon=0.5", "--scope", "model", "--scope", "per_tensor", "--trials", "2", "--budget", "4")


def write_files(folder: Path) -> None:
    """Write a linear classifier that is right on every example, and its data."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 3)
    with torch.no_grad():
        layer.weight.copy_(4 * torch.eye(3))
        layer.bias.zero_()
    inputs = torch.eye(3).repeat(8, 1)
    torch.jit.trace(layer, inputs[:2]).save(str(folder / "model.pt"))
    np.savez(folder / "data.npz", inputs=inputs.numpy(), labels=np.arange(24) % 3)


@contextlib.contextmanager
def running_up(folder: Path, data_dir: str) -> Iterator[str]:
    """Run `faultline up`, give its address, and end it as Ctrl-C does."""
    command = [str(BIN / "faultline"), "up", "--data-dir", data_dir, "--port", "0"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("faultline ready at http://127.0.0.1:")
            yield line.removeprefix("faultline ready at ").strip()
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def is_held(folder: Path) -> bool:
    """Tell whether a service holds the folder."""
    with (folder / "standalone.lock").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_an_audit_starts_its_own_service_and_up_finds_its_jobs_again(faultline: Faultline, folder: Path) -> None:
    write_files(folder)
    done = faultline(
        "audit", "model.pt", "--data", "data.npz", *SETS, "--policy", "pass.yaml", "--json", "--report-out", "r.json"
    )
    assert done.returncode == 0, done.stderr
    job = json.loads(done.stdout)["job"]
    assert "Starting a service for this call" in done.stderr
    assert not is_held(folder / ".faultline")
    with running_up(folder, ".faultline") as address:
        assert job["id"] in faultline("status", job["id"], "--server", address).stdout
        again = faultline("report", job["id"], "--format", "json", "--data-dir", ".faultline")
        assert again.stdout.rstrip("\n").encode() == (folder / "r.json").read_bytes()
        replayed = faultline("replay", "r.json", "--model", "model.pt", "--data", "data.npz", "--server", address, "--json")
        assert replayed.returncode == 0, replayed.stderr
        write_bent(folder)
        check_looks(faultline, address)
        rows = json.loads(replayed.stdout)["rows"]
        assert {row["what"] for row in rows} == {"loss", "accuracy"}
        assert all(row["agrees"] for row in rows)
    assert not is_held(folder / ".faultline")


class CrossEntropy(torch.nn.Module):
    """The loss that is built in, as a file."""

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the loss of every example."""
        return torch.nn.functional.cross_entropy(logits, labels, reduction="none")


def write_in_several_files(folder: Path) -> None:
    """Write the classifier of `write_files` as ONNX with each weight in a file of its own."""
    layer = torch.jit.load(str(folder / "model.pt"))
    weights = {name: value.detach().numpy() for name, value in layer.named_parameters()}
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Gemm", ["x", "weight", "bias"], ["logits"], transB=1)],
        "classifier",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3])],
        [onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["n", 3])],
        [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    (folder / "model_folder").mkdir()
    path = str(folder / "model_folder" / "model.onnx")
    onnx.save_model(model, path, save_as_external_data=True, all_tensors_to_one_file=False, size_threshold=0)
    assert sorted(file.name for file in (folder / "model_folder").iterdir()) == ["bias", "model.onnx", "weight"]


def test_a_loss_from_a_file_and_a_model_in_several_give_the_figures_of_one_file(faultline: Faultline, folder: Path) -> None:
    write_files(folder)
    write_in_several_files(folder)
    torch.jit.script(CrossEntropy().eval()).save(str(folder / "loss.pt"))
    sets = (*SETS, "--metric", "accuracy", "--data", "data.npz", "--json")
    calls = {
        "plain": ("model.pt",),
        "loss": ("model.pt", "--objective", "loss.pt"),
        "several": ("model_folder",),
    }
    figures = {}
    with running_up(folder, ".faultline") as address:
        for name, call in calls.items():
            done = faultline("audit", *call, *sets, "--server", address, "--report-out", f"{name}.json")
            assert done.returncode == 0, done.stderr
            report = json.loads((folder / f"{name}.json").read_bytes())
            figures[name] = [finding["measured"]["loss_change"] for finding in report["findings"][:1]]
            assert report["coverage"]["weights_audited"] == 12
        replay = ("replay", "loss.json", "--model", "model.pt", "--data", "data.npz", "--server", address, "--json")
        assert faultline(*replay).returncode == 3
        replayed = faultline(*replay, "--objective", "loss.pt")
        assert replayed.returncode == 0, replayed.stderr
    assert figures["loss"] == pytest.approx(figures["plain"], rel=1e-5)
    assert figures["several"] == pytest.approx(figures["plain"], rel=1e-5)
    subject = json.loads((folder / "loss.json").read_bytes())["subject"]
    assert subject["objective"] == {"sha256": compute_sha256((folder / "loss.pt").read_bytes())}


def write_bent(folder: Path) -> None:
    """Write a model that ends with an operator that nobody knows."""
    make = onnx.helper.make_node
    nodes = [make("MatMul", ["x", "w"], ["a"]), make("Bend", ["a"], ["y"], name="bent", domain="acme")]
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 3]) for name in ("x", "y")]
    stored = [onnx.numpy_helper.from_array(np.eye(3, dtype=np.float32), "w")]
    graph = onnx.helper.make_graph(nodes, "bent", values[:1], values[1:], stored)
    imports = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid("acme", 1)]
    onnx.save_model(onnx.helper.make_model(graph, opset_imports=imports, ir_version=10), str(folder / "bent.onnx"))


def check_looks(faultline: Faultline, address: str) -> None:
    """A real worker plans the audit and inspects the model; what it cannot audit ends with its problem or what is missing."""
    where = ("--server", address, "--json")
    planned = faultline("plan", "model.pt", "--data", "data.npz", *SETS, *where)
    assert planned.returncode == 0, planned.stderr
    plan = json.loads(planned.stdout)
    assert (plan["cells"], plan["coverage"]["weights_audited"], plan["subject"]["data"]["examples"]) == (3, 12, 24)
    inspected = faultline("inspect", "model.pt", "--data", "data.npz", *where)
    assert inspected.returncode == 0, inspected.stderr
    assert json.loads(inspected.stdout)["parity"]["difference"] < 1e-6
    refused = faultline("plan", "model.pt", "--data", "data.npz", "--scope", "heads=head.*", "--input", "y=inputs", *where)
    assert refused.returncode == 2
    places = [fault["where"] for fault in json.loads(refused.stdout)["problem"]["errors"]]
    assert places == ["/scopes", "/data/inputs"]
    bent = faultline("plan", "bent.onnx", "--data", "data.npz", *SETS, *where)
    assert bent.returncode == 2, bent.stderr
    found = json.loads(bent.stdout)
    assert (found["supported"], found["coverage"]["weights_supported"]) == (False, 0)
    assert found["operators"] == [{"operator": "Bend", "domain": "acme", "count": 1, "nodes": ["bent"]}]


@contextlib.contextmanager
def starting_audit(folder: Path, held: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Run an audit until a service of its own holds a folder; the audit must be ended inside."""
    command = [str(BIN / "faultline"), "audit", "model.onnx", "--data", "data.npz"]
    given = {**os.environ, **environment}
    with subprocess.Popen(command, cwd=folder, env=given, stderr=subprocess.PIPE, text=True) as process:
        try:
            _wait_until(lambda: any(is_held(lock.parent) for lock in folder.glob(f"{held}/standalone.lock")))
            yield process
        finally:
            process.kill()


def test_a_call_that_is_killed_leaves_no_service(folder: Path) -> None:
    with starting_audit(folder, ".faultline") as process:
        process.kill()
    _wait_until(lambda: not is_held(folder / ".faultline"))


def test_a_second_call_in_the_folder_works_elsewhere_and_an_interrupted_one_tidies_up(folder: Path) -> None:
    (folder / ".faultline").mkdir()
    (folder / "tmp").mkdir()
    with (folder / ".faultline" / "standalone.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with starting_audit(folder, "tmp/faultline-*", TMPDIR=str(folder / "tmp")) as process:
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "Interrupted" in err
    assert list((folder / "tmp").iterdir()) == []


def _wait_until(holds: Callable[[], bool], within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)
