"""What `plan` and `inspect` show: it fits the width, it says the figures, and no name from a file can touch the terminal."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest

from client.display.inspection import print_inspection
from client.display.plan import print_plan, print_unsupported
from client.errors import ExitCode
from client.options import AuditOptions, prepare_inspection
from schemas.inspection import Inspection
from schemas.plan import Plan, UnsupportedPlan
from service.openapi import previews
from tests.client.conftest import Inside
from tests.client.test_display import ESCAPES, HOSTILE, render

FAULT = {
    "what": "operator acme.Bend is not supported",
    "where": "nodes a, b",
    "expected": "",
    "got": "2 nodes",
    "advice": "export",
}


SHOWN = {"plan": previews.PLAN, "no plan": previews.UNSUPPORTED_PLAN, "inspection": previews.INSPECTION}


def show(document: dict[str, Any], width: int = 100, code: ExitCode = ExitCode.SUCCESS) -> str:
    if "cells" in document:
        plan = Plan.model_validate(document)
        return ESCAPES.sub("", render(lambda console: print_plan(console, plan), width))
    if "operators" in document and "supported" in document:
        unsupported = UnsupportedPlan.model_validate(document)
        return ESCAPES.sub("", render(lambda console: print_unsupported(console, unsupported, code), width))
    found = Inspection.model_validate(document)
    return ESCAPES.sub("", render(lambda console: print_inspection(console, found, code), width))


FREE = frozenset(
    re.findall(r"\w+", "name module producer operator domain what where got advice scope component reason")
)  # fields that hold text from a file


def replace_names(document: Any, name: str) -> Any:
    if isinstance(document, dict):
        return {
            key: name if key in FREE and isinstance(value, str) else [name] if key == "nodes" else replace_names(value, name)
            for key, value in document.items()
        }
    return [replace_names(value, name) for value in document] if isinstance(document, list) else document


@pytest.mark.parametrize("width", [60, 80, 100, 160])
@pytest.mark.parametrize("document", SHOWN.values(), ids=SHOWN)
def test_nothing_is_wider_than_the_terminal(document: dict[str, Any], width: int) -> None:
    for given in (document, replace_names(document, "encoder.layers.11.attention.output." + "x" * 60)):
        assert max(map(len, show(given, width).splitlines())) <= width


@pytest.mark.parametrize("document", SHOWN.values(), ids=SHOWN)
def test_names_cannot_touch_the_terminal(document: dict[str, Any]) -> None:
    more = {} if "supported" in document else {"unsupported": [FAULT], "refusals": [FAULT]}
    hostile = replace_names(document | more, HOSTILE)
    shown = show(hostile)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", shown)
    assert "owned" in shown


def test_a_plan_says_what_it_costs() -> None:
    shown = show(previews.PLAN)
    for said in (
        "14,458 of 14,458 can be audited (100.0%)",
        "the whole model",
        "5, one for each",
        "search",
        "165",
        "About 6 s",
        "22.9 MB",
    ):
        assert said in shown


def test_a_plan_of_a_model_that_is_not_supported_says_what_is_missing() -> None:
    shown = show(previews.UNSUPPORTED_PLAN, code=ExitCode.INCONCLUSIVE)
    for said in ("9,440 of 14,458 (65.3%) lead", "Bend", "acme", "stage1/bend, stage2/bend", "include the operator"):
        assert said in shown
    assert shown.rstrip().endswith("It cannot be audited as it is: 1 unsupported operator, exit code 2")


def test_an_inspection_says_what_is_inside() -> None:
    shown = show(previews.INSPECTION)
    for said in (
        "image float32 [any x 1 x 8 x 8]",
        "within 3.0e-07 x",
        "2 made-up examples",
        "Flatten 1",
        "650 in 2 tensors of 1 module",
    ):
        assert said in shown
    assert shown.rstrip().endswith("It can be audited, exit code 0")


def test_an_inspection_says_why_not_and_ends_with_another_code() -> None:
    document = copy.deepcopy(previews.INSPECTION) | {
        "unsupported": [FAULT],
        "parity": previews.INSPECTION["parity"] | {"difference": None, "reason": "operators are not supported"},
        "coverage": previews.INSPECTION["coverage"] | {"weights_supported": 325},
    }
    shown = show(document, code=ExitCode.INCONCLUSIVE)
    for said in ("325 (50.0%) lead", "operator acme.Bend is not supported", "nodes a, b", "not compared with ONNX Runtime"):
        assert said in shown
    assert shown.rstrip().endswith("It cannot be audited as it is: 1 unsupported operator, exit code 2")


def test_an_inspection_reads_data_as_an_audit_does(folder: Path) -> None:
    prepared = prepare_inspection(AuditOptions("model.onnx", "data.npz", inputs=("x=images",), data_format="npz", fresh=True))
    assert prepared.request.data is not None
    assert (prepared.request.data.inputs, prepared.request.data.format, prepared.request.fresh) == ({"x": "images"}, "npz", True)
    assert {path.name for path in prepared.uploads.values()} == {"model.onnx", "data.npz"}
    assert prepare_inspection(AuditOptions("model.onnx")).request.data is None


@pytest.mark.parametrize("command", ["plan", "inspect"])
def test_a_result_that_does_not_come_is_given_up(inside: Inside, server: str, command: str) -> None:
    # The crew of these tests ends audits only: nobody takes the job.
    data = ["--data", "data.npz"] if command == "plan" else []
    code, out, err = inside(command, "model.onnx", *data, "--server", server, "--wait", "0.2")
    assert (code, out) == (ExitCode.GAVE_UP, "")
    assert "an equal request finds its result" in err
    code, _, err = inside(command, "nothing.onnx", *data, "--server", server)
    assert code == ExitCode.USAGE
    assert "nothing.onnx" in err
