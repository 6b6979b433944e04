"""The caller: submits audits, never gives up on one, cancels some, and watches how each ends."""

import hashlib
import random
import time
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

TWIN_SHARE = 0.1
"""Share of requests that repeat an earlier one under another key: two equal audits at once run once."""
CANCEL_SHARE = 0.1
ENDED = ("succeeded", "failed", "cancelled", "quarantined")
TINY, LONG = 1, 64
"""Sizes of the set of an audit that takes a moment, and of one that outlives a worker's drain time."""


class Caller:
    """Every answer that may pass is asked for again with the same key."""

    def __init__(self, port: int, seed: int, folder: Path) -> None:
        self.http = httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=20)
        self.jobs: dict[str, dict[str, Any]] = {}
        """Accepted job ids with the request of each."""
        self.ends: dict[str, dict[str, Any]] = {}
        """How each job looked when it was first seen ended."""
        self.cancelled: set[str] = set()
        self._chance = random.Random(seed + 1_000_000)  # noqa: S311 - repeatable on purpose
        self._seed = seed
        self._content = make_model(seed), make_data(seed, folder)
        self._keys = 0

    def upload(self) -> None:
        """Store model and data."""
        self._uris = [self._store(content) for content in self._content]

    def submit_all(self, jobs: int, seconds: float) -> None:
        """Spread the audits over the time of havoc."""
        self.upload()
        requests: list[dict[str, Any]] = []
        for i in range(jobs):
            if requests and self._chance.random() < TWIN_SHARE:
                requests.append(self._chance.choice(requests))
            else:
                requests.append(self.build_request(i))
            id = self.submit(requests[-1])
            if self._chance.random() < CANCEL_SHARE:
                self.cancel(id)
            self.watch()
            time.sleep(seconds / jobs * self._chance.random())

    def build_request(self, search_seed: int, sizes: int = TINY) -> dict[str, Any]:
        """Return the smallest audit; the seed makes it another one."""
        model, data = self._uris
        search = {"seed": search_seed, "random_trials": 500, "budget_passes": 20}
        sets = [{"norm": 2, "epsilon": [0.1 * (i + 1) for i in range(sizes)]}]
        return {"model": {"uri": model}, "data": {"uri": data}, "sets": sets, "scopes": ["model"], "search": search}

    def submit(self, request: dict[str, Any]) -> str:
        """Return the id of the accepted audit."""
        self._keys += 1
        answer = self.repeat("POST", "/v1/audits", json=request, headers={"Idempotency-Key": f"{self._seed}-{self._keys}"})
        id = str(answer.raise_for_status().json()["id"])
        self.jobs[id] = request
        return id

    def cancel(self, id: str) -> None:
        """Ask for the end of a job; it may have ended by itself."""
        if self.repeat("DELETE", f"/v1/audits/{id}").status_code == httpx2.codes.ACCEPTED:
            self.cancelled.add(id)

    def watch(self) -> None:
        """Note the jobs that have ended since the last look."""
        for id in self.jobs.keys() - self.ends.keys():
            job = self.repeat("GET", f"/v1/audits/{id}").json()
            if job["state"] in ENDED:
                self.ends[id] = job

    def have_all_ended(self) -> bool:
        """Tell whether no job is queued or running."""
        self.watch()
        return self.jobs.keys() == self.ends.keys()

    def repeat(self, method: str, path: str, **options: Any) -> httpx2.Response:
        """Return the answer, once there is one that is not of the kind that passes."""
        while True:
            try:
                answer = self.http.request(method, path, **options)
            except httpx2.TransportError:
                time.sleep(0.2)
                continue
            if answer.status_code < httpx2.codes.INTERNAL_SERVER_ERROR:
                return answer
            time.sleep(0.2)

    def _store(self, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        self.repeat("PUT", f"/v1/artifacts/{digest}", content=content).raise_for_status()
        return f"artifact:sha256:{digest}"


def make_model(seed: int) -> bytes:
    """Return a network of 4 inputs, 5 hidden units and 3 classes."""
    random_numbers = np.random.default_rng(seed)
    shapes = {"w1": (4, 5), "b1": (5,), "w2": (5, 3), "b2": (3,)}
    weights = [
        numpy_helper.from_array(random_numbers.normal(size=shape).astype(np.float32), name) for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], name="/first/Gemm"),
        helper.make_node("Relu", ["h"], ["r"], name="/Relu"),
        helper.make_node("Gemm", ["r", "w2", "b2"], ["logits"], name="/second/Gemm"),
    ]
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])]
    found = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])]
    graph = helper.make_graph(nodes, "tiny", given, found, weights)
    return onnx.ModelProto.SerializeToString(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9))


def make_data(seed: int, folder: Path) -> bytes:
    """Return 32 examples of 3 classes."""
    random_numbers = np.random.default_rng(seed)
    path = folder / "data.npz"
    labels = random_numbers.integers(0, 3, 32)
    np.savez(path, x=random_numbers.normal(size=(32, 4)).astype(np.float32), labels=labels)
    return path.read_bytes()
