"""Admission lists every reason at once, and each reason says what to do."""

from dataclasses import replace

import pytest
import torch

from schemas.errors import AuditError, DataMismatch, ModelRefused, NoParameters
from tests.worker.engine.programs import build_mlp, build_session
from worker.engine.admit import check_clean_loss, check_data, check_first_batch, check_labels, check_model
from worker.engine.data.dataset import Dataset
from worker.engine.models.program import InputSpec
from worker.engine.objective import Objective
from worker.engine.refusals import Refusals

PROGRAM = build_mlp((3, 5, 4))


def admit(dataset: Dataset, objective: Objective) -> None:
    refusals = Refusals()
    refusals.attempt(check_labels, dataset, objective)
    if refusals.passes(check_data, PROGRAM, dataset, objective):
        refusals.attempt(check_first_batch, PROGRAM, dataset, objective, 8)
    refusals.raise_any()


def find_faults(inputs: torch.Tensor, labels: torch.Tensor, objective: Objective | None = None) -> list[str]:
    chosen = objective or Objective()
    dataset = Dataset({"x": inputs}, labels)
    with pytest.raises(DataMismatch) as caught:
        admit(dataset, chosen)
    assert all(fault.what and fault.where and fault.expected for fault in caught.value.faults)
    return [fault.what for fault in caught.value.faults]


def test_training_mode_and_fixed_batch_axis_are_refused_together() -> None:
    fixed = replace(PROGRAM, training=True, inputs=(InputSpec("x", torch.float32, (1, 3)),))
    with pytest.raises(ModelRefused) as caught:
        check_model(fixed)
    assert len(caught.value.faults) == 2
    assert "fixed at 1" in caught.value.faults[1].what


def test_a_model_without_weights_is_refused() -> None:
    with pytest.raises(NoParameters):
        check_model(replace(PROGRAM, weights={}))


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (torch.zeros(6, 3, dtype=torch.float64), "another dtype"),
        (torch.zeros(6, 4), "another shape"),
        (torch.zeros(6, 3, 1), "another shape"),
        (torch.full((6, 3), float("nan")), "NaN"),
    ],
)
def test_inputs_that_do_not_fit(inputs: torch.Tensor, said: str) -> None:
    assert said in find_faults(inputs, torch.zeros(6, dtype=torch.int64))[0]


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (torch.full((6,), 4), "outside the model's classes"),
        (torch.full((6,), -1), "outside the model's classes"),
        (torch.zeros(6), "class numbers"),
        (torch.zeros(6, 4, dtype=torch.int64), "differ in shape"),
        (torch.full((6,), -100), "every label is ignored"),
    ],
)
def test_labels_that_do_not_fit_cross_entropy(labels: torch.Tensor, said: str) -> None:
    assert said in find_faults(torch.zeros(6, 3), labels)[0]


@pytest.mark.parametrize(
    ("loss", "labels", "said"),
    [
        ("mse", torch.zeros(6), "differ in shape"),
        ("mse", torch.zeros(6, 4, dtype=torch.int64), "must be floating point"),
        ("bce_with_logits", torch.full((6, 4), 2.0), "must lie in"),
        ("mse", torch.full((6, 4), float("inf")), "NaN"),
    ],
)
def test_targets_that_do_not_fit_elementwise_losses(loss: str, labels: torch.Tensor, said: str) -> None:
    assert said in find_faults(torch.zeros(6, 3), labels, Objective(loss=loss, metrics=()))[0]


@pytest.mark.parametrize("output", ["logits", 3])
def test_outputs_that_do_not_exist(output: str | int) -> None:
    assert "output" in find_faults(torch.zeros(6, 3), torch.zeros(6, dtype=torch.int64), Objective(output=output))[0]


def test_a_clean_model_that_is_non_finite_cannot_be_audited() -> None:
    with pytest.raises(AuditError, match="3 examples"):
        check_clean_loss(None, 3)
    assert check_clean_loss(0.5, 0) == 0.5


def test_data_that_fits_is_admitted() -> None:
    session = build_session(PROGRAM)
    check_model(PROGRAM)
    check_data(PROGRAM, session.dataset, Objective())
    check_first_batch(PROGRAM, session.dataset, Objective(), 8)
    assert len(session.dataset) == 40
