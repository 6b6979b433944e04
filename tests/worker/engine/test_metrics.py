"""Every metric against torchmetrics, an independent implementation."""

import pytest
import torch
from torchmetrics.functional.classification import multiclass_accuracy, multilabel_accuracy
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
