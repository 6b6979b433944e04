"""Every loss against torch's own function, in value and gradient, batch after batch."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from worker.engine.objective import Objective
from worker.engine.tally import Tally

GENERATOR = torch.Generator().manual_seed(0)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


def pick(classes: int, *shape: int) -> Tensor:
    labels = torch.randint(0, classes, shape, generator=GENERATOR)
    labels[1] = -100
    return labels


@dataclass(frozen=True)
class Case:
    """An objective, an output and labels, and the function that torch has for it."""

    objective: Objective
    output: Tensor
    target: Tensor
    theirs: Callable[[Tensor, Tensor], Tensor]


SEGMENTED = Objective(class_axis=1, metrics=("accuracy",))
CASES = {
    "cross-entropy": Case(Objective(), draw(9, 4), pick(4, 9), functional.cross_entropy),
    "tokens": Case(Objective(), draw(9, 5, 4), pick(4, 9, 5), lambda x, y: functional.cross_entropy(x.movedim(-1, 1), y)),
    "segmentation": Case(SEGMENTED, draw(9, 4, 3, 2), pick(4, 9, 3, 2), functional.cross_entropy),
    "nll": Case(Objective("nll", "log_probabilities"), draw(9, 4).log_softmax(-1), pick(4, 9), functional.nll_loss),
    "probabilities": Case(
        Objective(output_kind="probabilities"), draw(9, 4).softmax(-1), pick(4, 9), lambda x, y: functional.nll_loss(x.log(), y)
    ),
    "regression": Case(Objective("mse", metrics=()), draw(9, 4), draw(9, 4), functional.mse_loss),
    "several labels": Case(
        Objective("bce_with_logits"), draw(9, 4), draw(9, 4).sigmoid(), functional.binary_cross_entropy_with_logits
    ),
    "model's own loss": Case(Objective("model_output", metrics=()), draw(9), torch.arange(9), lambda x, _: x.mean()),
}


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_torch(name: str) -> None:
    case = CASES[name]
    ours, theirs = (case.output.clone().requires_grad_() for _ in range(2))
    wanted = case.theirs(theirs, case.target)
    wanted.backward()
    selected = case.objective.select_output({"y": ours})
    counted = case.objective.find_counted(case.target)
    (case.objective.compute_losses(selected, case.target).sum() / counted.sum()).backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    assert torch.allclose(ours.grad, theirs.grad, rtol=1e-12, atol=1e-15)
    tally = Tally(case.objective)
    for rows in torch.arange(9).split(4):
        tally.add(case.objective.select_output({"y": case.output[rows]}), case.target[rows])
    assert tally.outcome().loss == pytest.approx(float(wanted.detach()), rel=1e-12)


def test_one_number_per_batch_counts_for_all_of_its_examples() -> None:
    losses = draw(9)
    objective = Objective("model_output", metrics=())
    tally = Tally(objective)
    for rows in torch.arange(9).split(4):
        tally.add(objective.select_output({"loss": losses[rows].mean()}), rows)
    assert tally.outcome().loss == pytest.approx(float(losses.mean()), rel=1e-12)
    single = torch.tensor(2.0, requires_grad=True)
    objective.compute_losses(single, torch.arange(4)).sum().backward()
    assert float(single.grad or 0) == 4.0


def test_the_accuracy_of_a_segmentation_is_that_of_its_pixels() -> None:
    case = CASES["segmentation"]
    tally = Tally(SEGMENTED)
    tally.add(SEGMENTED.select_output({"y": case.output}), case.target)
    counted = case.target != -100
    right = (case.output.argmax(1) == case.target)[counted].double().mean()
    assert tally.outcome().metrics["accuracy"] == pytest.approx(float(right), rel=1e-12)
