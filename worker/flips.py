"""Bit flips that a request asks for: searched, and as many random ones beside them."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch

from schemas.report import BitFlip, BitFlips, FlipDamage, FlipMetric, NonFinite, Passes, RandomFlips, RandomMetric
from schemas.request import BitFlipRequest
from worker.context import AuditContext
from worker.engine.bits import FlipResult, FlipSettings, FoundFlips, draw_random_flips, search_bit_flips
from worker.engine.models.stored import Flip
from worker.engine.session import Evaluator
from worker.engine.tally import Outcome, compute_drop
from worker.places import find_flipped


def measure_bit_flips(context: AuditContext) -> tuple[BitFlips, ...]:
    """Return a section for each request, in order; a ScopeError lists every pattern without a match.

    When the audit has to stop, the sections of the last requests are not there.
    """
    asked = context.request.bit_flips
    flipped = find_flipped(context.request, context.session.program, context.audited)
    begun = (pair for pair in zip(asked, flipped, strict=True) if not context.job.should_stop())
    return tuple(_measure(context, one, names) for one, names in begun)


def _measure(context: AuditContext, asked: BitFlipRequest, names: tuple[str, ...]) -> BitFlips:
    settings = FlipSettings(should_stop=context.job.should_stop)
    settings = replace(settings, kinds=frozenset(asked.kinds)) if asked.kinds else settings
    grids, evaluator, clean = context.session.program.storage, Evaluator(context.session, names), context.clean
    gradient = context.gradient.flatten(names)
    if context.gradient.is_zero(names):
        gradient = torch.zeros_like(gradient)
    found = search_bit_flips(evaluator, grids, gradient, clean, asked.counts, settings)
    seed, most = context.settings.seed, max(asked.counts)
    drawn = draw_random_flips(evaluator, grids, most, asked.random_trials, seed, settings)
    last = found.results[-1]
    return BitFlips(
        match=asked.match,
        kind="lower_bound" if context.population is None else "estimate",
        weights=evaluator.layout.size,
        bits=found.bits,
        non_finite_flips=found.non_finite,
        results=tuple(_show_result(context, result) for result in found.results),
        random=_show_random(context, [trial.outcome for trial in drawn.trials], most),
        stop_reason=cast("Any", found.stop_reason),
        passes=Passes(forward=last.forward, backward=last.backward),
    )


def _show_result(context: AuditContext, result: FlipResult) -> FlipDamage:
    clean, worst = context.clean, result.worst["loss"]
    return FlipDamage(
        count=result.count,
        loss_change=None if worst.outcome.loss is None else worst.outcome.loss - clean.loss,
        non_finite=NonFinite(examples=worst.outcome.non_finite) if worst.outcome.non_finite else None,
        metrics={name: _show_drop(name, value, result.worst[name], worst) for name, value in clean.metrics.items()},
        flips=tuple(_show_flip(flip) for flip in worst.flips),
    )


def _show_drop(name: str, clean: float, found: FoundFlips, worst: FoundFlips) -> FlipMetric:
    value = found.outcome.metrics[name]
    own = None if found.flips == worst.flips else tuple(_show_flip(flip) for flip in found.flips)
    return FlipMetric(value=value, drop=compute_drop(name, clean, value), flips=own)


def _show_flip(flip: Flip) -> BitFlip:
    new = flip.new if math.isfinite(flip.new) else None
    return BitFlip(tensor=flip.tensor, index=flip.index, bit=flip.bit, kind=cast("Any", flip.kind), old=flip.old, new=new)


def _show_random(context: AuditContext, outcomes: Sequence[Outcome], count: int) -> RandomFlips | None:
    if not outcomes:
        return None
    changes = [outcome.loss - context.clean.loss for outcome in outcomes if outcome.loss is not None]
    return RandomFlips(
        count=count,
        trials=len(outcomes),
        seed=context.settings.seed,
        non_finite_trials=len(outcomes) - len(changes),
        largest_loss_change=max(changes, default=None),
        metrics={name: _show_metric(name, value, outcomes) for name, value in context.clean.metrics.items()},
    )


def _show_metric(name: str, clean: float, outcomes: Sequence[Outcome]) -> RandomMetric:
    values = [value for outcome in outcomes if (value := outcome.metrics[name]) is not None]
    worst = max(values, key=lambda value: compute_drop(name, clean, value) or 0.0, default=None)
    return RandomMetric(worst=worst, mean=statistics.fmean(values) if values else None)
