import json
import subprocess
import sys
from pathlib import Path

import pytest

from schemas.export import DOCUMENTS, render_schema, write_schemas
from tests.gate.reports import build_document

FOLDER = Path(__file__).parents[2] / "docs" / "schemas"


@pytest.mark.parametrize("stem", sorted(DOCUMENTS))
def test_the_published_schema_is_that_of_the_code(stem: str) -> None:
    assert (FOLDER / f"{stem}.json").read_text(encoding="utf-8") == render_schema(stem), "run python -m schemas.export"


def test_no_other_schema_is_published() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(DOCUMENTS)


def test_every_schema_is_valid_json_schema() -> None:
    checked = _check_jsonschema("--check-metaschema", *(str(path) for path in sorted(FOLDER.glob("*.json"))))
    assert checked.returncode == 0, checked.stdout


def test_a_report_satisfies_its_published_schema_and_a_broken_one_does_not(tmp_path: Path) -> None:
    good, broken = tmp_path / "good.json", tmp_path / "broken.json"
    good.write_text(json.dumps(build_document()), encoding="utf-8")
    broken.write_text(json.dumps(build_document() | {"clean": {"loss": "low", "metrics": {}}}), encoding="utf-8")
    schema = str(FOLDER / "report.json")
    assert _check_jsonschema("--schemafile", schema, str(good)).returncode == 0
    refused = _check_jsonschema("--schemafile", schema, str(broken))
    assert refused.returncode == 1
    assert "$.clean.loss" in refused.stdout


def test_write_schemas_writes_every_file(tmp_path: Path) -> None:
    write_schemas(tmp_path / "new" / "folder")
    assert {path.stem for path in (tmp_path / "new" / "folder").iterdir()} == set(DOCUMENTS)


def _check_jsonschema(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "check_jsonschema", *arguments], capture_output=True, text=True, check=False, timeout=60
    )
