"""Models that never end, or that grow without end: real files in a real audit process, stopped by its limits."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from schemas.base import compute_sha256
from schemas.job import JobKind
from schemas.kinds import REQUESTS
from tests.storage.desk import OWNER
from tests.storage.valkey import RunningValkey, running_valkey
from tests.worker.process.bench import open_bench
from tests.worker.process.processes import find_processes

MIB = 2**20


class Endless(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        while bool(x.sum() == x.sum()):
            x = x * 1.0
        result: torch.Tensor = self.layer(x)
        return result


class Growing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = [x]
        while bool(x.sum() == x.sum()):
            kept.append(torch.cat([x, kept[-1]]))
        result: torch.Tensor = self.layer(torch.cat(kept)[: x.shape[0]])
        return result


def script(network: nn.Module) -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(network), buffer)
    return buffer.getvalue()


def write_loop() -> bytes:
    """Return an ONNX file whose Loop asks for the largest number of rounds there is."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Identity", ["h"], ["h_out"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("h", TensorProto.FLOAT, ["batch", 4]),
        ],
        [
            helper.make_tensor_value_info(name, kind, None)
            for name, kind in (("on", TensorProto.BOOL), ("h_out", TensorProto.FLOAT))
        ],
    )
    graph = helper.make_graph(
        [
            helper.make_node("Loop", ["rounds", "yes", "x"], ["h_end"], body=body),
            helper.make_node("MatMul", ["h_end", "w"], ["y"]),
        ],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [
            numpy_helper.from_array(np.array(2**63 - 1), "rounds"),
            numpy_helper.from_array(np.array(True), "yes"),
            numpy_helper.from_array(np.ones((4, 3), np.float32), "w"),
        ],
    )
    content: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()
    onnx.checker.check_model(onnx.load_from_string(content))
    return content


def write_data() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, inputs=np.ones((6, 4), np.float32), labels=np.arange(6) % 3)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningValkey]:
    with running_valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


CASES: dict[str, tuple[Callable[[], bytes], JobKind, set[str]]] = {
    "TorchScript, audited": (lambda: script(Endless()), "audit", {"time_limit"}),
    "ONNX, planned": (write_loop, "plan", {"time_limit", "model_refused"}),
    "TorchScript, inspected": (lambda: script(Endless()), "inspection", {"time_limit"}),
    "growing": (lambda: script(Growing()), "audit", {"time_limit", "memory_limit"}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_limits_stop_it(case: str, valkey: RunningValkey, tmp_path: Path) -> None:
    build, kind, codes = CASES[case]
    with open_bench(valkey, tmp_path, job_timeout_s=2.0, job_memory_bytes=600 * MIB) as bench:
        put = bench.resources.artifacts.put_bytes
        uris: dict[str, Any] = {part: {"uri": f"artifact:sha256:{put(OWNER, content)}"} for part, content in _list_files(build())}
        stored = {path: path.stat().st_mtime_ns for path in (tmp_path / "artifacts").rglob("*")}
        request = REQUESTS[kind].model_validate(uris)
        digest = compute_sha256(case.encode())
        job = bench.desk.run(bench.desk.queue.accept(request, OWNER, digest, None, digest, kind)).record
        assert bench.run(job.id) == "failed"
        problem = bench.get(job.id).problem
        assert problem is not None
        assert problem["code"] in codes, problem
        assert all(item["what"] and item["advice"] for item in problem["errors"])
        assert {path: path.stat().st_mtime_ns for path in (tmp_path / "artifacts").rglob("*")} == stored
    assert find_processes(str(tmp_path)) == {}
    assert [path.name for path in (tmp_path / "scratch").iterdir()] == ["lock"]


def _list_files(model: bytes) -> list[tuple[str, bytes]]:
    return [("model", model), ("data", write_data())]
