"""Two models side by side: the logit-normalised loss, and which figures mean the same for both; method section 12."""

from collections.abc import Iterator
from functools import cached_property

import torch

from schemas.comparison import Comparison, Invariance
from schemas.report import Finding
from worker.context import AuditContext
from worker.engine.corruption import Corruption
from worker.engine.search import CellResult
from worker.engine.session import Evaluator
from worker.engine.tally import TOP

INVARIANCES: dict[str, tuple[Invariance, ...]] = {
    "elementwise": ("weight_rescaling", "tensor_rescaling"),
    "tensor": ("tensor_rescaling",),
    "rounding_int8": ("tensor_rescaling",),
    "rounding_int8_per_channel": ("tensor_rescaling",),
}
"""By scale: the rescalings of weights that keep the function and move no set of this scale."""
ABSOLUTE = "the set is in the units of the weights: it means something else for a model whose weights are larger"
LOGITS = "it grows with the logits: a model with larger logits shows larger changes for the same harm"


class NormalisedMeter:
    """Measures the logit-normalised loss, where there are labels and classes and all of the data is measured."""

    def __init__(self, context: AuditContext) -> None:
        objective, asked = context.session.objective, context.request.theory.normalised_loss
        can = asked and objective.loss in {"cross_entropy", "label_free"} and context.population is None
        self._objective = objective.normalise() if can else None
        self._context = context

    @cached_property
    def clean(self) -> float | None:
        """The normalised loss of the clean model."""
        evaluator = Evaluator(self._context.session, self._context.audited[:1])
        return self._measure(evaluator, torch.zeros(evaluator.layout.size))

    def measure(self, evaluator: Evaluator, result: CellResult) -> float | None:
        """Return how much the corruption that is worst for the loss changes the normalised one. One forward pass."""
        clean, corrupted = self.clean, self._measure(evaluator, result.worst["loss"].corruption)
        return None if clean is None or corrupted is None else corrupted - clean

    def _measure(self, evaluator: Evaluator, corruption: Corruption) -> float | None:
        if self._objective is None:
            return None
        [outcome] = evaluator.measure([corruption], self._objective)
        return outcome.loss


def list_comparisons(findings: tuple[Finding, ...], loss: str) -> tuple[Comparison, ...]:
    """Return, for every figure under every scale of the findings, what it is invariant to and whether models compare by it."""
    scales = dict.fromkeys(finding.set.scale for finding in findings)
    figures = ["loss_change", *dict.fromkeys(name for finding in findings for name in finding.measured.metrics)]
    if any(finding.normalised_loss_change is not None for finding in findings):
        figures.append("normalised_loss_change")
    return tuple(_compare(figure, scale, loss) for scale in scales for figure in figures)


def _compare(figure: str, scale: str, loss: str) -> Comparison:
    by_weights = INVARIANCES.get(scale, ())
    # A squared error has the units of the labels, which both models share.
    has_units = loss == "mse"
    by_logits: tuple[Invariance, ...] = ("logit_scale",) if figure in TOP or figure == "normalised_loss_change" else ()
    reasons = [*_find_reasons(weights=bool(by_weights), logits=bool(by_logits) or has_units)]
    return Comparison(
        figure=figure,
        scale=scale,
        invariant_to=(*by_logits, *by_weights),
        between_models=not reasons,
        reason="; ".join(reasons) or "the same for both models on the same data, with the same search",
    )


def _find_reasons(*, weights: bool, logits: bool) -> Iterator[str]:
    if not weights:
        yield ABSOLUTE
    if not logits:
        yield LOGITS
