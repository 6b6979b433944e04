"""Every metric against torchmetrics, an independent implementation."""

import pytest
import torch
from sklearn.metrics import f1_score
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_f1_score,
    multilabel_accuracy,
    multilabel_f1_score,
)
from torchmetrics.functional.regression import mean_squared_error
from torchmetrics.functional.text import perplexity

from worker.engine.objective import Objective
from worker.engine.tally import Outcome, Tally


def measure(objective: Objective, output: torch.Tensor, target: torch.Tensor) -> Outcome:
    tally = Tally(objective)
    for rows in torch.arange(len(output)).split(7):
        tally.add(output[rows], target[rows])
    return tally.outcome()


@pytest.mark.parametrize("classes", [2, 5, 30])
@pytest.mark.parametrize("tokens", [None, 11])
def test_class_metrics(classes: int, tokens: int | None) -> None:
    generator = torch.Generator().manual_seed(classes)
    shape = (40,) if tokens is None else (40, tokens)
    logits = torch.randn(*shape, classes, generator=generator)
    labels = torch.randint(0, classes, shape, generator=generator)
    labels[3] = -100
    names = ("accuracy", "error_rate", "top_5", "top_5_error_rate", "perplexity")
    metrics = measure(Objective(metrics=names), logits, labels).metrics
    for name, top in (("accuracy", 1), ("top_5", min(5, classes))):
        expected = multiclass_accuracy(
            logits.flatten(0, -2), labels.flatten(), num_classes=classes, average="micro", top_k=top, ignore_index=-100
        )
        assert metrics[name] == pytest.approx(float(expected), abs=1e-6)
    assert metrics["error_rate"] == pytest.approx(1 - (metrics["accuracy"] or 0.0))
    assert metrics["top_5_error_rate"] == pytest.approx(1 - (metrics["top_5"] or 0.0))
    expected = perplexity(logits.view(1, -1, classes), labels.view(1, -1), ignore_index=-100)
    assert metrics["perplexity"] == pytest.approx(float(expected), rel=1e-5)


def test_multi_label_accuracy() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(40, 6, generator=generator), torch.randint(0, 2, (40, 6), generator=generator)
    outcome = measure(Objective("bce_with_logits", metrics=("accuracy", "error_rate")), logits, labels.float())
    expected = float(multilabel_accuracy(logits.sigmoid(), labels, num_labels=6, average="micro"))
    assert outcome.metrics["accuracy"] == pytest.approx(expected, abs=1e-6)


def test_mean_squared_error() -> None:
    generator = torch.Generator().manual_seed(0)
    output, target = torch.randn(40, 6, generator=generator), torch.randn(40, 6, generator=generator)
    outcome = measure(Objective("mse", metrics=("mse",)), output, target)
    assert outcome.metrics["mse"] == pytest.approx(float(mean_squared_error(output, target)), rel=1e-6)


@pytest.mark.parametrize("classes", [2, 5, 30])
@pytest.mark.parametrize("tokens", [None, 11])
def test_f1_is_the_mean_over_the_classes_that_appear(classes: int, tokens: int | None) -> None:
    generator = torch.Generator().manual_seed(classes)
    shape = (20,) if tokens is None else (20, tokens)
    logits, labels = torch.randn(*shape, classes, generator=generator), torch.randint(0, classes, shape, generator=generator)
    labels[3] = -100
    found = measure(Objective(metrics=("f1", "accuracy")), logits, labels).metrics
    answers, wanted = logits.argmax(-1).flatten(), labels.flatten()
    counted = wanted != -100
    theirs = multiclass_f1_score(answers[counted], wanted[counted], num_classes=classes, average="macro")
    assert found["f1"] == pytest.approx(float(theirs), abs=1e-6)
    assert found["f1"] == pytest.approx(f1_score(wanted[counted], answers[counted], average="macro"), abs=1e-12)
    assert list(found) == ["f1", "accuracy"]


def test_f1_of_several_labels_is_the_mean_over_all_of_them() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(40, 6, generator=generator), torch.randint(0, 2, (40, 6), generator=generator)
    logits[:, 5], labels[:, 5] = -1.0, 0
    found = measure(Objective("bce_with_logits", metrics=("f1",)), logits, labels.float()).metrics["f1"]
    theirs = float(multilabel_f1_score(logits.sigmoid(), labels, num_labels=6, average="macro"))
    assert found == pytest.approx(theirs, abs=1e-6)
    assert found == pytest.approx(f1_score(labels, logits > 0, average="macro", zero_division=0), abs=1e-12)


def test_an_example_that_is_not_finite_answers_no_class() -> None:
    logits = torch.eye(3)
    logits[2] = torch.nan
    outcome = measure(Objective(metrics=("f1",)), logits, torch.arange(3))
    assert outcome.metrics["f1"] == pytest.approx(2 / 3)
    assert outcome.non_finite == 1


@pytest.mark.parametrize("top", [3, 10])
def test_other_tops(top: int) -> None:
    generator = torch.Generator().manual_seed(top)
    logits, labels = torch.randn(60, 20, generator=generator), torch.randint(0, 20, (60,), generator=generator)
    found = measure(Objective(metrics=(f"top_{top}", f"top_{top}_error_rate")), logits, labels).metrics
    theirs = float(multiclass_accuracy(logits, labels, num_classes=20, average="micro", top_k=top))
    assert found[f"top_{top}"] == pytest.approx(theirs, abs=1e-6)
    assert found[f"top_{top}_error_rate"] == pytest.approx(1 - theirs, abs=1e-6)
