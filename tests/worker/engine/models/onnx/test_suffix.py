"""What ONNX Runtime measures behind a cut, against the whole file run there with the corrupted weights stored in it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor
from torch.nn import functional

from tests.oracles import mean_cross_entropy
from tests.worker.engine.models.onnx.graphs import initializer, node, save
from worker.engine.data.dataset import Dataset
from worker.engine.models import suffix
from worker.engine.models.onnx import load_onnx, run_reference
from worker.engine.models.onnx.suffix import Suffix, build_suffix, is_portable
from worker.engine.objective import Objective
from worker.engine.session import SESSION_EXAMPLES, Evaluator, Session

CLASSES = 5


def _draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32) / max(1, shape[-1]) ** 0.5


def _write_transformer(folder: Path) -> Path:
    """Residual blocks with a transposed weight, a table used at both ends, and a size that is computed from the input."""
    nodes = [
        node("Gather", ["table", "tokens"], ["h0"]),
        node("Shape", ["h0"], ["size"]),
    ]
    stored = [initializer("table", _draw(CLASSES, 8)), initializer("gain", np.ones(8, np.float32))]
    for i in range(3):
        stored += [
            initializer(f"a{i}", _draw(8, 8, seed=i)),
            initializer(f"b{i}", _draw(16, 8)),
            initializer(f"c{i}", _draw(16, 8)),
        ]
        nodes += [
            node("LayerNormalization", [f"h{i}", "gain"], [f"n{i}"]),
            node("MatMul", [f"n{i}", f"a{i}"], [f"q{i}"]),
            node("Reshape", [f"q{i}", "size"], [f"r{i}"]),
            node("Add", [f"h{i}", f"r{i}"], [f"m{i}"]),
            node("Transpose", [f"b{i}"], [f"t{i}"], perm=[1, 0]),
            node("MatMul", [f"m{i}", f"t{i}"], [f"u{i}"]),
            node("Gelu", [f"u{i}"], [f"g{i}"]),
            node("MatMul", [f"g{i}", f"c{i}"], [f"v{i}"]),
            node("Add", [f"m{i}", f"v{i}"], [f"h{i + 1}"]),
        ]
    nodes += [node("Transpose", ["table"], ["head"], perm=[1, 0]), node("MatMul", ["h3", "head"], ["y"])]
    return save(folder, nodes, stored=stored, inputs={"tokens": onnx.TensorProto.INT64})


def _write_convolutional(folder: Path) -> Path:
    """Residual convolutions, some of them depthwise, before a linear layer."""
    stored = [initializer("stem", _draw(6, 3, 3, 3)), initializer("w", _draw(6, CLASSES)), initializer("bias", _draw(CLASSES))]
    nodes = [node("Conv", ["x", "stem"], ["s"], pads=[1, 1, 1, 1]), node("Relu", ["s"], ["h0"])]
    for i in range(3):
        stored += [
            initializer(f"d{i}", _draw(6, 1, 3, 3)),
            initializer(f"k{i}", _draw(6, 6, 1, 1)),
            initializer(f"e{i}", _draw(6)),
        ]
        nodes += [
            node("Conv", [f"h{i}", f"d{i}"], [f"p{i}"], pads=[1, 1, 1, 1], group=6),
            node("Relu", [f"p{i}"], [f"r{i}"]),
            node("Conv", [f"r{i}", f"k{i}", f"e{i}"], [f"q{i}"]),
            node("Add", [f"h{i}", f"q{i}"], [f"h{i + 1}"]),
        ]
    nodes += [
        node("GlobalAveragePool", ["h3"], ["pooled"]),
        node("Flatten", ["pooled"], ["flat"]),
        node("Gemm", ["flat", "w", "bias"], ["y"]),
    ]
    return save(folder, nodes, stored=stored)


WRITERS = {"transformer": _write_transformer, "convolutional": _write_convolutional}
SCOPES = [
    ("transformer", ("a0",)),
    ("transformer", ("b1",)),
    ("transformer", ("a1", "c1")),
    ("transformer", ("table",)),
    ("transformer", ("gain",)),
    ("transformer", ("b0", "c2")),
    ("convolutional", ("stem",)),
    ("convolutional", ("d0",)),
    ("convolutional", ("k1", "e1")),
    ("convolutional", ("d0", "w")),
]


def _open(path: Path, examples: int = 80, micro_batch: int = 20) -> Session:
    program = load_onnx(path)
    rows = np.random.default_rng(1)
    if program.inputs[0].name == "tokens":
        inputs = torch.from_numpy(rows.integers(CLASSES, size=(examples, 4)))
        target = torch.from_numpy(rows.integers(CLASSES, size=(examples, 4)))
    else:
        inputs = torch.from_numpy(rows.normal(size=(examples, 3, 6, 6)).astype(np.float32))
        target = torch.from_numpy(rows.integers(CLASSES, size=examples))
    return Session(program, Dataset({program.inputs[0].name: inputs}, target), Objective(), micro_batch)


def _draw_corruptions(session: Session, names: tuple[str, ...], size: float) -> list[Tensor]:
    generator, k = torch.Generator().manual_seed(0), sum(session.program.weights[name].numel() for name in names)
    return [torch.randn(k, generator=generator) * size for _ in range(2)]


def _run_file(path: Path, session: Session, names: tuple[str, ...], corruption: Tensor) -> Tensor:
    """Store w + a in the file and run all of it, all examples at once."""
    model = onnx.load(path)
    pieces = corruption.split([session.program.weights[name].numel() for name in names])
    for name, piece in zip(names, pieces, strict=True):
        [tensor] = [entry for entry in model.graph.initializer if entry.name == name]
        value = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(value + piece.numpy().reshape(value.shape), name))
    changed = path.with_name("changed.onnx")
    onnx.save(model, changed)
    return run_reference(changed, session.dataset.inputs, threads=1)["y"]


def _is_cut(session: Session, names: tuple[str, ...]) -> bool:
    """Tell whether a session takes part in measuring the scope."""
    plan = session.clean.find_plan(next(session.batches())[0])
    tainted = set(names)
    for step in plan.steps:
        if not tainted.isdisjoint(step.uses):
            tainted.update(step.outputs)
    return session.clean.find_suffixes(plan).find_cut(names, tainted) is not None


@pytest.mark.parametrize(("kind", "names"), SCOPES)
def test_outcomes_are_those_of_the_corrupted_file(kind: str, names: tuple[str, ...], tmp_path: Path) -> None:
    path = WRITERS[kind](tmp_path)
    session = _open(path)
    [clean] = Evaluator(session, names).measure_with_gradient([torch.zeros_like(_draw_corruptions(session, names, 1.0)[0])])
    assert clean[0].loss is not None
    corruptions = _draw_corruptions(session, names, 0.3)

    outcomes = Evaluator(session, names).measure(corruptions)

    assert _is_cut(session, names)
    for corruption, outcome in zip(corruptions, outcomes, strict=True):
        logits = _run_file(path, session, names, corruption)
        loss = mean_cross_entropy(logits, session.dataset.target)
        assert outcome.loss is not None
        assert abs(outcome.loss - loss) <= 1e-5 * (abs(loss - clean[0].loss) + clean[0].loss)
        assert outcome.metrics["accuracy"] == float((logits.argmax(-1) == session.dataset.target).double().mean())


@pytest.mark.parametrize(("kind", "names"), SCOPES)
def test_the_file_in_its_runtime_judges_what_is_non_finite(kind: str, names: tuple[str, ...], tmp_path: Path) -> None:
    path = WRITERS[kind](tmp_path)
    session = _open(path)
    for size in (1e18, 1e30, 1e38):
        corruptions = _draw_corruptions(session, names, size)
        for corruption, outcome in zip(corruptions, Evaluator(session, names).measure(corruptions), strict=True):
            logits, target = _run_file(path, session, names, corruption), session.dataset.target
            losses = functional.cross_entropy(logits.flatten(0, -2), target.flatten(), reduction="none").view(len(target), -1)
            finite = torch.isfinite(logits.flatten(1)).all(1) & torch.isfinite(losses).all(1)
            assert outcome.non_finite == int((~finite).sum())


@pytest.mark.parametrize("kind", WRITERS)
def test_a_corruption_is_measured_alike_alone_with_others_and_in_any_order(kind: str, tmp_path: Path) -> None:
    path = WRITERS[kind](tmp_path)
    scopes = [names for asked, names in SCOPES if asked == kind]
    first, second = _open(path), _open(path)
    together = {names: Evaluator(first, names).measure(_draw_corruptions(first, names, 0.3)) for names in scopes}
    for names in reversed(scopes):
        alone = [Evaluator(second, names).measure([a])[0] for a in reversed(_draw_corruptions(second, names, 0.3))]
        assert alone[::-1] == together[names]


def test_small_data_and_odd_batches_stay_in_the_interpreter(tmp_path: Path) -> None:
    session = _open(_write_transformer(tmp_path), examples=SESSION_EXAMPLES + 3, micro_batch=16)
    sizes = [session.pays_sessions(target) for _, target in session.batches()]
    assert sizes == [True] * 4 + [False]
    few = _open(_write_transformer(tmp_path), examples=SESSION_EXAMPLES - 1, micro_batch=16)
    assert not any(few.pays_sessions(target) for _, target in few.batches())


def test_sessions_without_constants_need_more_examples_but_judge_what_is_not_finite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = _open(_write_transformer(tmp_path))
    evaluator, built = Evaluator(session, tuple(session.program.weights)), list[Suffix | None]()

    def build(*given: Any) -> Suffix | None:
        built.append(build_suffix(*given))
        return built[-1]

    monkeypatch.setattr(suffix, "build_suffix", build)
    corruption = 0.1 * torch.randn(evaluator.layout.size, generator=torch.Generator().manual_seed(0))
    [few], interpreted = evaluator.measure([corruption]), len(built)
    [many] = evaluator.measure([corruption], bare=SESSION_EXAMPLES)
    assert interpreted == 0 < len(built)
    assert few.loss == pytest.approx(many.loss, rel=1e-5)
    built.clear()
    fresh = Evaluator(_open(_write_transformer(tmp_path)), tuple(session.program.weights))
    assert fresh.measure([torch.full_like(corruption, 1e38)])[0].non_finite
    assert built


def test_programs_that_are_cast_or_not_the_files_own_are_not_cut(tmp_path: Path) -> None:
    session = _open(_write_transformer(tmp_path))
    assert _is_cut(session, ("a0",))
    assert not _is_cut(session.cast(torch.float64), ("a0",))
    assert not _is_cut(replace(session, program=replace(session.program, nodes={})), ("a0",))
    halves = {name: tensor.half() for name, tensor in session.program.weights.items()}
    assert not is_portable(replace(session.program, weights=halves))


def test_a_step_that_the_runtime_does_not_know_leaves_all_to_the_interpreter(tmp_path: Path) -> None:
    session = _open(_write_transformer(tmp_path))
    corruptions = _draw_corruptions(session, ("a0",), 0.3)
    [gelu] = [step.name for step in session.program.steps if step.outputs == ("g2",)]
    nodes = {name: entry for name, entry in session.program.nodes.items() if name != gelu}

    found = Evaluator(replace(session, program=replace(session.program, nodes=nodes)), ("a0",)).measure(corruptions)

    assert found == Evaluator(replace(session, program=replace(session.program, nodes={})), ("a0",)).measure(corruptions)


def test_room_for_constants_bounds_the_sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, scopes = _write_transformer(tmp_path), [names for kind, names in SCOPES if kind == "transformer"]
    expected = [Evaluator(_open(path), names).measure(_draw_corruptions(_open(path), names, 0.3)) for names in scopes]
    monkeypatch.setattr(suffix, "CONSTANT_BYTES", 3000)
    session = _open(path)
    for _ in range(2):
        found = [Evaluator(session, names).measure(_draw_corruptions(session, names, 0.3)) for names in scopes]
        for ours, theirs in zip(found, expected, strict=True):
            assert [entry.loss for entry in ours] == pytest.approx([entry.loss for entry in theirs], rel=1e-6)
    monkeypatch.setattr(suffix, "CONSTANT_BYTES", 100)
    assert not _is_cut(_open(path), ("a0",))
