"""Every shipped file loads in the runtime it is for and does what the table in examples/README.md says."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch.nn.functional import cross_entropy

from tests.examples.artifacts import ARTIFACTS, EXAMPLES, Row, load_data, load_network, read_table

TABLE = read_table()
FILES = [(row, path) for row in TABLE for path in row.files]
LARGEST_TOTAL_BYTES = 2_000_000


def run_file(path: Path, inputs: torch.Tensor) -> torch.Tensor:
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return torch.from_numpy(session.run(None, {"x": inputs.numpy()})[0])
    with torch.no_grad():
        logits: torch.Tensor = torch.jit.load(str(path)).eval()(inputs)
    return logits


def test_the_table_lists_every_model_file_and_all_of_them_are_small() -> None:
    listed = {path for row in TABLE for path in (*row.files, row.data)}
    assert listed == set(ARTIFACTS.iterdir())
    assert sum(path.stat().st_size for path in listed) < LARGEST_TOTAL_BYTES


@pytest.mark.parametrize(("row", "path"), FILES, ids=[path.name for _, path in FILES])
def test_a_file_has_the_clean_loss_and_accuracy_that_the_table_states(row: Row, path: Path) -> None:
    inputs, labels = load_data(row.data)
    logits = run_file(path, inputs).flatten(0, -2)
    right = int((logits.argmax(-1) == labels.flatten()).sum())
    # Another machine's rounding may turn an argmax that is a tie in float32; more than one in a thousand is no tie.
    assert right == pytest.approx(row.accuracy * labels.numel(), abs=max(0.5, labels.numel() / 1000))
    assert cross_entropy(logits.double(), labels.flatten()).item() == pytest.approx(row.loss, abs=1e-4)


@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize(("row", "path"), FILES, ids=[path.name for _, path in FILES])
def test_any_batch_size_runs_and_gives_the_same_logits(row: Row, path: Path, batch: int) -> None:
    inputs, _ = load_data(row.data)
    torch.testing.assert_close(run_file(path, inputs[:batch]), run_file(path, inputs[:16])[:batch], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("row", TABLE, ids=[row.name for row in TABLE])
def test_labels_are_int64_one_per_prediction(row: Row) -> None:
    inputs, labels = load_data(row.data)
    logits = run_file(row.files[0], inputs[:4])
    assert labels.dtype == torch.int64
    assert labels.shape == (len(inputs), *logits.shape[1:-1])
    assert 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[-1]
    assert sum(weight.numel() for weight in load_network(row.name).parameters()) == row.weights


def test_folding_batchnorm_left_the_function_as_it_was() -> None:
    inputs, _ = load_data(ARTIFACTS / "digits.npz")
    folded, unfolded = load_network("digits_cnn"), load_network("digits_cnn_unfused")
    with torch.no_grad():
        torch.testing.assert_close(folded(inputs), unfolded(inputs), rtol=1e-4, atol=1e-4)
    assert not [name for name, _ in folded.named_buffers()]
    assert [name for name, _ in unfolded.named_buffers() if name.endswith("running_var")]


@pytest.mark.parametrize(("row", "path"), FILES, ids=[path.name for _, path in FILES])
def test_no_path_of_the_exporting_machine_is_inside(row: Row, path: Path) -> None:
    content = path.read_bytes()
    assert b"site-packages" not in content
    assert str(EXAMPLES.parent).encode() not in content
    assert b".debug_pkl" not in content


def test_the_digits_are_those_that_the_library_ships() -> None:
    inputs, labels = load_data(ARTIFACTS / "digits.npz")
    from sklearn.datasets import load_digits  # noqa: PLC0415 - scikit-learn is only needed here

    images, targets = load_digits(return_X_y=True)
    known = {(image.tobytes(), int(target)) for image, target in zip(images, targets, strict=True)}
    held = {
        (image.tobytes(), int(target))
        for image, target in zip(16 * inputs.flatten(1).double().numpy(), labels.numpy(), strict=True)
    }
    assert held <= known
    assert len(labels) == 500
    assert np.unique(labels.numpy()).tolist() == list(range(10))
