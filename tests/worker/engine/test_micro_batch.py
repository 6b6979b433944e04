"""The micro-batch is a matter of memory, not of results: on a shipped network, one step and a whole search."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.worker.engine.test_search import read_clean
from worker.engine.cells import plan_cells
from worker.engine.corruption import CorruptionSet
from worker.engine.data.files import DataFile
from worker.engine.gradient import compute_gradient
from worker.engine.opening import Source, open_session
from worker.engine.record import Pool
from worker.engine.scopes import find_scopes
from worker.engine.search import CellResult, SearchSettings, search_cells
from worker.engine.session import Evaluator, Session

ARTIFACTS = Path(__file__).parents[3] / "examples" / "artifacts"
SETS = [CorruptionSet(2.0, 0.3), CorruptionSet(2.0, 0.3, 20), CorruptionSet(float("inf"), 0.005, None, "elementwise")]
SIZES = (1, 7, 64)


@pytest.fixture(scope="module")
def session() -> Session:
    opened = open_session(Source(ARTIFACTS / "digits_mlp.onnx", DataFile(ARTIFACTS / "digits.npz")))
    return replace(opened.session, dataset=opened.session.dataset.take(range(150)))


def search(session: Session, settings: SearchSettings) -> list[CellResult]:
    info = compute_gradient(session, tuple(session.program.weights))
    pool = Pool(read_clean(info.clean))
    results: list[CellResult] = []
    for scope in find_scopes(["per_module"], info.reached, session.program.modules):
        evaluator = Evaluator(session, scope.tensors)
        cells = plan_cells(scope, evaluator.layout.size, SETS)
        results += search_cells(evaluator, cells, info.flatten(scope.tensors), pool, settings)
    return results


def test_one_step_figures_agree_in_float32(session: Session) -> None:
    runs = [search(replace(session, micro_batch=size), SearchSettings("first_order", 1, 0)) for size in SIZES]
    clean = read_clean(compute_gradient(session, tuple(session.program.weights)).clean)
    for cells in zip(*runs, strict=True):
        changes = [clean.compute_damage("loss", cell.first_order) for cell in cells]
        assert max(changes) - min(changes) <= 1e-5 * (max(map(abs, changes)) + clean.loss)
        assert len({cell.first_order.metrics["accuracy"] for cell in cells}) == 1


def test_searched_figures_agree_in_float64(session: Session) -> None:
    double = session.cast(torch.float64)
    runs = [search(replace(double, micro_batch=size), SearchSettings("auto", 24, 2)) for size in SIZES]
    for cells in zip(*runs, strict=True):
        losses = [cell.worst["loss"].outcome.loss or 0.0 for cell in cells]
        assert losses == pytest.approx([losses[0]] * len(losses), rel=1e-8)
        assert len({cell.worst["accuracy"].outcome.metrics["accuracy"] for cell in cells}) == 1


def test_the_same_search_gives_the_same_bits(session: Session) -> None:
    first, second = (search(replace(session), SearchSettings("auto", 24, 2)) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert one.trace == other.trace
        assert all(torch.equal(one.worst[what].corruption[:], other.worst[what].corruption[:]) for what in one.worst)
