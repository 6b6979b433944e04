"""The support table and its document."""

import itertools
from pathlib import Path

import onnx.defs
import pytest

from worker.engine.models.onnx.operators import FAMILIES, TABLE
from worker.engine.models.onnx.registry import NEWEST_OPSET, OLDEST_OPSET, Operator
from worker.engine.models.onnx.table import render_table

DOCUMENT = Path(__file__).parents[5] / "docs" / "onnx_operators.md"


def test_the_document_is_what_the_table_says() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == render_table()


def test_the_table_was_compared_with_the_newest_opset_that_onnx_knows() -> None:
    assert onnx.defs.onnx_opset_version() == NEWEST_OPSET


@pytest.mark.parametrize(
    "entry", [entry for entry in TABLE.operators if entry.domain == ""], ids=lambda entry: f"{entry.name}-{entry.since}"
)
def test_each_row_is_found_at_its_own_opset(entry: Operator) -> None:
    opset = max(entry.since, OLDEST_OPSET)

    assert entry.until is None or opset < entry.until
    assert TABLE.find("", entry.name, opset) is entry


def test_forms_of_one_operator_do_not_overlap() -> None:
    forms: dict[tuple[str, str], list[Operator]] = {}
    for entry in TABLE.operators:
        forms.setdefault((entry.domain, entry.name), []).append(entry)

    for key, entries in forms.items():
        ordered = sorted(entries, key=lambda entry: entry.since)
        for older, newer in itertools.pairwise(ordered):
            assert older.until == newer.since, key


def test_each_family_has_operators_of_its_own() -> None:
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
    assert all(family.operators for family in FAMILIES)
