"""What theory says of a scope and its cells: upper bounds, curvature, and the error of the one-step estimate."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, cast

import torch

from schemas.bounds import ErrorBound, Smoothness, UpperBound
from schemas.report import Finding
from worker.context import AuditContext
from worker.engine.corruption import CorruptionSet
from worker.engine.flags import RaisedFlag
from worker.engine.scopes import Scope
from worker.engine.search import derive_seed
from worker.engine.session import Evaluator
from worker.engine.smoothness import (
    LANCZOS_STEPS,
    compute_error_bound,
    draw_start,
    estimate_smoothness,
    make_hessian_product,
    run_lanczos,
)
from worker.engine.upper_bounds import LossBounder


class ScopeBounds:
    """The theory of one scope; what the request did not ask for is left out."""

    def __init__(self, context: AuditContext, evaluator: Evaluator, scope: Scope, bounder: LossBounder | None) -> None:
        self._context, self._evaluator, self._scope, self._bounder = context, evaluator, scope, bounder
        self._gradient = context.gradient.flatten(scope.tensors)
        self._smoothness = self._measure_smoothness() if context.request.theory.smoothness else None

    def describe(self, corruption_set: CorruptionSet) -> Mapping[str, Any]:
        """Return the finding's sections."""
        return {
            "upper_bound": self._bound(corruption_set),
            "smoothness": self._smoothness,
            "error_bound": self._bound_error(corruption_set),
        }

    def find_flags(self, finding: Finding) -> list[RaisedFlag]:
        """Return what curvature says against the one-step figure of a finding that has its sections."""
        bound, smoothness = finding.error_bound, finding.smoothness
        flags = []
        if bound is not None and bound.c is not None and bound.c >= 1:
            flags.append(RaisedFlag("curvature_dominates", self._scope.name, {"finding": finding.id, "c": bound.c}))
        if smoothness is not None and not smoothness.converged:
            evidence = {"finding": finding.id, "hessian_products": smoothness.hessian_products}
            flags.append(RaisedFlag("smoothness_not_converged", self._scope.name, evidence))
        return flags

    def _measure_smoothness(self) -> Smoothness:
        scope, start = self._scope, torch.zeros_like(self._gradient)
        product = make_hessian_product(self._context.session, scope.tensors, start.double())
        gradient = start if self._context.gradient.is_zero(scope.tensors) else self._gradient
        seed = derive_seed(self._context.settings.seed, scope.name, "lanczos")
        found = estimate_smoothness(run_lanczos(product, draw_start(gradient, seed).double(), LANCZOS_STEPS))
        return Smoothness(**cast("Any", asdict(found)))

    def _bound_error(self, corruption_set: CorruptionSet) -> ErrorBound | None:
        if self._smoothness is None or corruption_set.scale != "absolute":
            return None
        zero = self._context.gradient.is_zero(self._scope.tensors)
        region = self._evaluator.layout.build_region(corruption_set)
        dual = 0.0 if zero else region.maximise(self._gradient).value / corruption_set.epsilon
        weights = self._evaluator.layout.size
        return ErrorBound(**cast("Any", asdict(compute_error_bound(self._smoothness.largest, corruption_set, weights, dual))))

    def _bound(self, corruption_set: CorruptionSet) -> UpperBound | None:
        if self._bounder is None:
            return None
        if self._context.population is not None:
            reason = "the data is sampled, and an upper bound speaks of all of it"
            return UpperBound(loss_change=None, kind="upper_bound", status="not_available", reason=reason, metrics={})
        found = self._bounder.bound(self._scope.tensors, self._evaluator.layout.build_region(corruption_set))
        return UpperBound(
            loss_change=found.value,
            kind="upper_bound",
            status=cast("Any", found.status),
            reason=found.reason,
            metrics=found.metrics,
        )
