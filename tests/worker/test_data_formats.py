"""Whole audits on other formats than `.npz` report the same figures."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from schemas.report import Measurement
from tests.worker.audits import write_job
from tests.worker.engine.data.writers import WRITERS
from worker.audit import measure_audit
from worker.engine.data import spool


@pytest.mark.parametrize("name", ["csv", "tar of npy"])
def test_the_figures_do_not_depend_on_the_format_or_on_where_the_data_lie(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(path: Path) -> Measurement:
        return measure_audit(replace(job, data_path=path), lambda *_: None)

    job = write_job(tmp_path, scopes=["model", "per_module"])
    with np.load(job.data_path) as file:
        arrays = {"inputs": file["inputs"].astype(np.float32), "labels": file["labels"]}
    path = WRITERS[name](tmp_path / "other", arrays)
    whole = measure(job.data_path)
    held = measure(path)
    monkeypatch.setattr(spool, "HELD_BYTES", 0)
    assert held == measure(path) == whole
