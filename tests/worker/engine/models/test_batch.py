"""Models that run on one number of examples only give the figures of the same model without that limit."""

import functools
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from worker.engine.data.files import DataFile
from worker.engine.gradient import compute_gradient
from worker.engine.models.batch import fill_batch, find_fixed_batch
from worker.engine.models.load import load_program
from worker.engine.models.program import InputSpec
from worker.engine.opening import Opened, Source, open_session
from worker.engine.session import Evaluator

EXAMPLES = 50


class Network(nn.Module):
    """Two convolutions and a head; `size` writes the number of examples into a reshape."""

    def __init__(self, size: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.size = size
        self.first, self.second = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 8, 3, stride=2)
        self.head = nn.Linear(72, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.second(torch.relu(self.first(x))))
        return self.head(h.reshape(x.shape[0] if self.size is None else self.size, 72))


def _export_onnx(path: Path, size: int | None) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Network().eval(),
            (torch.zeros(size or 2, 1, 8, 8),),
            str(path),
            dynamo=False,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": {0: "batch"}} if size is None else None,
        )
    return path


def _trace(path: Path, size: int | None) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(Network(size).eval(), torch.zeros(size or 2, 1, 8, 8), check_trace=False), str(path))
    return path


@functools.cache
def _write_data(folder: Path) -> Path:
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(EXAMPLES, 1, 8, 8)).astype(np.float32)
    path = folder / "data.npz"
    np.savez(path, inputs=inputs, labels=generator.integers(0, 4, EXAMPLES))
    return path


def _open(write: Callable[[Path, int | None], Path], folder: Path, size: int | None) -> Opened:
    folder.mkdir(exist_ok=True)
    return open_session(Source(write(folder / f"model_{size}", size), DataFile(_write_data(folder))))


@pytest.mark.parametrize("write", [_export_onnx, _trace])
@pytest.mark.parametrize("size", [1, 16])
def test_figures_are_those_of_the_model_for_any_number(
    tmp_path: Path, write: Callable[[Path, int | None], Path], size: int
) -> None:
    free, fixed = (_open(write, tmp_path / str(given), given) for given in (None, size))
    names = list(free.session.program.weights)

    assert (free.session.program.batch, fixed.session.program.batch) == (None, size)
    assert fixed.session.batch_size == size
    assert fixed.parity <= 1e-5
    expected, found = (compute_gradient(opened.session, names) for opened in (free, fixed))
    assert found.clean.loss == pytest.approx(expected.clean.loss, rel=1e-6)
    assert found.clean.metrics == expected.clean.metrics
    for name in names:
        assert torch.allclose(found.flatten([name]), expected.flatten([name]), rtol=1e-4, atol=1e-6)
        evaluators = [Evaluator(opened.session, [name]) for opened in (free, fixed)]
        corruption = 0.3 * torch.randn(evaluators[0].layout.size, generator=torch.Generator().manual_seed(1))
        (a,), (b,) = (evaluator.measure([corruption]) for evaluator in evaluators)
        assert b.loss == pytest.approx(a.loss, rel=1e-5)
        assert b.metrics == a.metrics


def test_what_fills_a_batch_has_no_gradient_and_leaves_no_output(tmp_path: Path) -> None:
    program = load_program(_export_onnx(tmp_path / "model.onnx", 16))
    x = torch.randn(5, 1, 8, 8, requires_grad=True)

    output = program.forward({}, {"x": x})["y"]
    output.sum().backward()

    free = load_program(_export_onnx(tmp_path / "free.onnx", None))
    y = x.detach().clone().requires_grad_()
    free.forward({}, {"x": y})["y"].sum().backward()
    assert output.shape == (5, 4)
    assert x.grad is not None
    assert y.grad is not None
    assert torch.allclose(x.grad, y.grad, rtol=1e-5, atol=1e-6)


def test_more_examples_than_the_model_takes_are_an_error() -> None:
    with pytest.raises(ValueError, match="runs on 2 examples"):
        fill_batch({"x": torch.zeros(3, 2)}, 2)


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [([(16, 3)], 16), ([(16, 3), (16,)], 16), ([(None, 3)], None), ([(16, 3), (1, 3)], None), ([(16,), None], None), ([], None)],
)
def test_one_size_that_all_inputs_declare_is_the_batch(shapes: list[tuple[int | None, ...] | None], expected: int | None) -> None:
    assert find_fixed_batch([InputSpec(f"x{i}", torch.float32, shape) for i, shape in enumerate(shapes)]) == expected
