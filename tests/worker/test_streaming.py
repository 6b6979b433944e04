"""Data that a process may not hold are audited in it all the same; `make streaming` does the same with 5 GB."""

from pathlib import Path

import pytest

from benchmarks.streaming import TOLERANCE, run

DATA_BYTES = 240_000_000
LIMIT_BYTES = 700_000_000
"""Four fifths of it may be allocated, and the imports leave less than half of the data's size of that."""


@pytest.mark.parametrize("data_format", ["npz", "parquet"])
def test_data_larger_than_the_memory_that_is_left_are_audited(tmp_path: Path, data_format: str) -> None:
    held, clean = run(tmp_path, DATA_BYTES, LIMIT_BYTES, data_format)
    assert held.examples == DATA_BYTES // 4096
    assert held.clean_loss == pytest.approx(clean, rel=TOLERANCE)
    assert held.loss_change > 0
    assert held.peak_bytes <= LIMIT_BYTES
