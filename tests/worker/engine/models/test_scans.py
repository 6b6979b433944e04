"""Scans give no false alarm: what exporters write of every test network, and the shipped examples, passes them."""

import logging
from pathlib import Path
from typing import get_args

import pytest

from tests.architectures import ARCHITECTURES, Architecture
from tests.architectures.exports import TorchScriptRoute, export_onnx_traced, export_pt2, export_torchscript
from tests.examples.artifacts import ARTIFACTS
from tests.worker.engine.models.onnx.test_broken_files import BYTES, CHANGES
from tests.worker.engine.models.torchscript.test_hostile import ARCHIVES, CLAIMS, CODE, PICKLES
from worker.engine.models.onnx.archive import TensorReader, read_model
from worker.engine.models.onnx.files import find_files
from worker.engine.models.onnx.graph import read_graph
from worker.engine.models.pt2.load import import_contents, read_contents
from worker.engine.models.torchscript.scan import scan_archive

ROUTES = (*get_args(TorchScriptRoute), "onnx", "pt2")
EXAMPLES = sorted([*ARTIFACTS.glob("*.onnx"), *ARTIFACTS.glob("*.pt")])
OPSET = 17
NOT_TRACED = {"two_in_two_out"}
"""The older exporter, which is the quick one, cannot write its bilinear layer."""


def scan(path: Path) -> None:
    """Read what is read of a file before anything of it is loaded or run."""
    if path.suffix == ".onnx":
        assert read_graph(read_model(path), TensorReader(find_files(path))).unsupported == ()
    elif path.suffix == ".pt2":
        assert import_contents(read_contents(path)).weights
    else:
        scan_archive(path)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_exports_pass(name: str, tmp_path: Path) -> None:
    architecture = ARCHITECTURES[name]
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    network = architecture.build()
    for route in list_routes(architecture):
        if route == "onnx":
            scan(export_onnx_traced(architecture, network, tmp_path / "model.onnx", OPSET))
        elif route == "pt2":
            scan(export_pt2(architecture, network, tmp_path / "model.pt2"))
        else:
            chosen = next(known for known in get_args(TorchScriptRoute) if known == route)
            scan(export_torchscript(architecture, network, tmp_path / f"{route}.pt", chosen))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_pass(path: Path) -> None:
    scan(path)


def list_routes(architecture: Architecture) -> list[str]:
    left_out = {"script"} if not architecture.scriptable else {"onnx"} if architecture.name in NOT_TRACED else set[str]()
    return [route for route in ROUTES if route not in left_out]


def test_the_bars_are_met() -> None:
    """At least 90 benign files of all formats here; at least 25 hostile ones in the tests of each loader that are named here."""
    assert sum(len(list_routes(architecture)) for architecture in ARCHITECTURES.values()) + len(EXAMPLES) >= 90
    assert len(CODE) + 2 * len(PICKLES) + len(CLAIMS) + len(ARCHIVES) >= 25
    assert len(BYTES) + len(CHANGES) >= 25
