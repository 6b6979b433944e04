"""docs/data.md: its examples are run and read, and it names every format."""

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import yaml

from client.packing import find_file
from schemas.data import DataReference
from tests.project.tree import ROOT
from worker.engine.data.files import Wanted
from worker.engine.data.reading import load_data
from worker.sources import build_data_file

PAGE = (ROOT / "docs/data.md").read_text(encoding="utf-8")
EXAMPLES: list[tuple[str, dict[str, Any]]] = [
    (code, yaml.safe_load(document))
    for code, document in re.findall(r"```python\n(.*?)```\n\n```yaml\n(.*?)```", PAGE, re.DOTALL)
]


@pytest.mark.parametrize(("code", "example"), EXAMPLES, ids=[example["file"] for _, example in EXAMPLES])
def test_every_example_can_be_read(code: str, example: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/data.md", "exec"), {})
    given = DataReference.model_validate_json(json.dumps({"uri": "artifact:sha256:" + "0" * 64} | example["data"]))
    file = build_data_file(find_file(Path(example["file"])), given, tmp_path)
    dataset = load_data(file, Wanted({"x": None}, label_dtype=torch.int64))
    assert len(dataset) >= 2
    assert dataset.target.dtype == torch.int64


def test_every_format_has_its_row() -> None:
    formats = set(get_args(DataReference.model_fields["format"].annotation)) - {"auto"}
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)) == formats
