"""The operator table against ONNX's own conformance suite."""

from collections import defaultdict
from pathlib import Path

import onnx
import onnx.version_converter
import pytest
import torch

from tests.worker.engine.models.onnx.conformance import (
    RUNTIME_DIFFERS,
    Outcome,
    Verdict,
    find_difference,
    find_node_cases,
    find_stored_cases,
    judge,
    read_stored,
)
from worker.engine.models.onnx import load_onnx
from worker.engine.models.onnx.operators import TABLE

Results = dict[Outcome, list[Verdict]]

PASSED_AT_LEAST = 1745
"""A ratchet: raise it when more cases pass."""
CONVERTED_WRONGLY = {"test_PReLU_1d_multiparam", "test_PReLU_2d_multiparam", "test_PReLU_3d_multiparam"}
"""onnx's converter keeps opset 6's slopes, which later opsets broadcast along another axis; they are read as they are stored."""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    path = tmp_path_factory.mktemp("cases") / "model.onnx"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found: Results = defaultdict(list)
    for case in find_node_cases():
        verdict = judge(case, path)
        found[verdict.outcome].append(verdict)
    torch.set_num_threads(threads)
    return found


def test_no_supported_case_comes_out_wrong(results: Results) -> None:
    assert results["wrong"] == []


def test_what_differs_from_the_standard_is_what_the_runtime_computes(results: Results) -> None:
    assert {entry.name for entry in results["as the runtime"]} == RUNTIME_DIFFERS


def test_what_cannot_run_is_refused_at_load(results: Results) -> None:
    assert results["failed"] == []
    assert results["untestable"] == []


def test_the_number_of_passed_cases_never_falls(results: Results) -> None:
    assert len(results["passed"]) >= PASSED_AT_LEAST


def test_the_table_covers_the_operators_of_common_exports() -> None:
    names = {(entry.domain, entry.name) for entry in TABLE.operators}

    assert len(names) >= 190
    assert len({name for domain, name in names if domain == ""}) >= 170


@pytest.mark.parametrize("kind", ["pytorch-converted", "pytorch-operator"])
def test_stored_pytorch_cases_pass_at_opset_17(kind: str, tmp_path: Path) -> None:
    wrong = {}
    cases = list(find_stored_cases(kind))
    for name, folder in cases:
        model = onnx.load(folder / "model.onnx")
        model = model if name in CONVERTED_WRONGLY else onnx.version_converter.convert_version(model, 17)
        path = tmp_path / "model.onnx"
        path.write_bytes(model.SerializeToString())
        program = load_onnx(path)
        inputs = dict(zip([spec.name for spec in program.inputs], read_stored(folder, "input"), strict=True))
        with torch.no_grad():
            found = program.forward({}, inputs)
        for output, expected in zip(program.outputs, read_stored(folder, "output"), strict=True):
            difference = find_difference(found[output], expected, 1e-3, 1e-5)
            if difference:
                wrong[name] = difference

    assert wrong == {}
    assert len(cases) == {"pytorch-converted": 82, "pytorch-operator": 35}[kind]
