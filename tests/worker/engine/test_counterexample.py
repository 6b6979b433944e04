"""A counterexample file gives back the corruption that was measured, exactly."""

from pathlib import Path

import numpy as np
import pytest
import torch

from schemas.errors import DataMismatch, DataUnreadable
from tests.worker.engine.programs import build_mlp, build_session
from tests.worker.engine.test_search import run_search
from worker.engine.corruption import CorruptionSet
from worker.engine.counterexample import build_corruption, estimate_counterexample_bytes, load_counterexample, save_counterexample
from worker.engine.scopes import Layout
from worker.engine.search import SearchSettings


@pytest.mark.parametrize("n", [3, None])
def test_round_trip_is_exact_and_repeats_byte_for_byte(tmp_path: Path, n: int | None) -> None:
    session = build_session(build_mlp((3, 6, 4)))
    [result] = run_search(session, [CorruptionSet(2.0, 1.5, n)], SearchSettings("reapplied", 15, 2))
    weights = session.program.weights
    paths = [tmp_path / "a.npz", tmp_path / "b.npz"]
    for path in paths:
        save_counterexample(path, result, Layout(weights, list(weights)))
    assert paths[0].read_bytes() == paths[1].read_bytes()
    pieces = load_counterexample(paths[0])
    for what, candidate in result.worst.items():
        assert torch.equal(build_corruption(pieces.get(what, pieces["loss"]), weights), candidate.corruption[:].double())
    assert estimate_counterexample_bytes(result) >= 16 * (n or result.weights)


def test_foreign_files_and_foreign_models_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(b"nothing")
    with pytest.raises(DataUnreadable):
        load_counterexample(tmp_path / "x.npz")
    np.savez(tmp_path / "y.npz", **{"loss/other/indices": np.array([0]), "loss/other/values": np.array([1.0])})  # type: ignore[arg-type]
    with pytest.raises(DataMismatch, match="lacks"):
        build_corruption(load_counterexample(tmp_path / "y.npz")["loss"], {"w": torch.zeros(2)})
