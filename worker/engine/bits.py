"""Bit flips: the worst few flips of stored bits that a measured search finds, and random ones beside it; method section 6."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worker.engine.models.program import Storage
from worker.engine.models.stored import Flip, Stored, count_flips, read_stored
from worker.engine.passes import Passes
from worker.engine.record import Clean
from worker.engine.session import Evaluator
from worker.engine.tally import Outcome

MAX_DRAWS = 4
"""Random draws per flip that is wanted; those that make NaN or Inf are passed over."""


@dataclass(frozen=True)
class FoundFlips:
    """A set of flips that was applied and measured."""

    outcome: Outcome
    flips: tuple[Flip, ...]


@dataclass(frozen=True)
class FlipResult:
    """The worst found with at most `count` flips, for "loss" and for each metric, and the passes spent so far."""

    count: int
    worst: dict[str, FoundFlips]
    forward: int
    backward: int


@dataclass(frozen=True)
class FlipSearch:
    """results: one per count asked for, rising. bits: how many flips there are; non_finite: how many of them make NaN or Inf.

    stop_reason: budget (all flips spent), converged (stop_when held, or no flip is left), non_finite or deadline.
    """

    results: tuple[FlipResult, ...]
    stop_reason: str
    bits: int
    non_finite: int


@dataclass(frozen=True)
class FlipSettings:
    """candidates: flips measured per step. kinds: which bits may flip. non_finite: whether a flip may make NaN or Inf.

    should_stop: asked before every step and every random trial.
    """

    candidates: int = 8
    kinds: frozenset[str] = frozenset({"sign", "exponent", "mantissa", "value"})
    non_finite: bool = False
    should_stop: Callable[[], bool] = lambda: False


def rank_flips(
    stored: Mapping[str, Stored], gradient: Mapping[str, Tensor], settings: FlipSettings, done: Iterable[Flip] = ()
) -> list[tuple[str, int, int]]:
    r"""Return (tensor, index, bit) of the flips with the largest g_i Delta_{i,b}, the best bit of each weight, largest first.

    Delta_{i,b} = (value of weight i with bit b flipped) - (its value). Equal ones in order of tensor and index. `done` are
    flips that are taken already. Where the whole gradient is zero it ranks nothing, and |Delta_{i,b}| does: damage that starts
    in the second order grows with its square.
    Kind: estimate; exact to first order on grids. Source: method section 6.
    """
    is_flat = not any(bool(slope.any()) for slope in gradient.values())
    names: list[str] = []
    scores, indices, bits = [], [], []
    for name, entry in stored.items():
        if not entry.codes.numel():
            continue
        slope = None if is_flat else gradient[name].reshape(-1).double()
        best, chosen = _score(entry, slope, settings, [flip for flip in done if flip.tensor == name])
        top = find_top(best, settings.candidates)
        names += [name] * len(top)
        scores.append(best[top])
        indices.append(top)
        bits.append(chosen[top])
    score, index, bit = torch.cat(scores), torch.cat(indices), torch.cat(bits)
    order = [entry for entry in find_top(score, settings.candidates).tolist() if score[entry] > -math.inf]
    return [(names[entry], int(index[entry]), int(bit[entry])) for entry in order]


def _score(entry: Stored, slope: Tensor | None, settings: FlipSettings, done: Sequence[Flip]) -> tuple[Tensor, Tensor]:
    """Return, for each weight [k], the largest g Delta over its bits, or |Delta| without a slope g, in float64, and the bit."""
    old = entry.values.reshape(-1).double()
    best, chosen = torch.full_like(old, -math.inf), torch.zeros_like(old, dtype=torch.int64)
    made_non_finite = torch.full_like(old, math.inf if settings.non_finite else -math.inf)
    if slope is not None and settings.non_finite:
        made_non_finite = torch.where(slope != 0, math.inf, 0.0)
    for bit in range(entry.bits):
        if entry.name_kind(bit) not in settings.kinds:
            continue
        new = entry.decode(entry.flip_everywhere(bit)).reshape(-1).double()
        gain = (new - old).abs() if slope is None else slope * (new - old)
        score = torch.where(new.isfinite(), gain, made_non_finite)
        score[[flip.index for flip in done if flip.bit == bit]] = -math.inf
        better = score > best
        best, chosen = torch.where(better, score, best), torch.where(better, bit, chosen)
    return best, chosen


def find_top(scores: Tensor, count: int) -> Tensor:
    """Return the indices of the `count` largest scores, largest first, equal ones in index order.

    >>> find_top(torch.tensor([1.0, 3.0, 2.0, 3.0]), 3).tolist()
    [1, 3, 2]
    """
    threshold = scores.topk(min(count, len(scores))).values[-1]
    above = (scores > threshold).nonzero().flatten()
    ties = (scores == threshold).nonzero().flatten()[: count - len(above)]
    found = torch.cat([above, ties])
    return found[scores[found].argsort(descending=True, stable=True)]


@dataclass
class _Search:
    """The weights as flipped so far, and the worst of all that was measured."""

    evaluator: Evaluator
    clean: Clean
    settings: FlipSettings
    stored: dict[str, Stored]
    state: FoundFlips
    worst: dict[str, FoundFlips]
    forward: int = 0
    backward: int = 0

    def step(self, gradient: Mapping[str, Tensor]) -> str | None:
        """Measure the best flips by first order and take the worst; return why the search ends, or None."""
        flipped = [
            self.stored[name].flip(name, index, bit)
            for name, index, bit in rank_flips(self.stored, gradient, self.settings, self.state.flips)
        ]
        if not flipped:
            return "converged"
        weights = {name: entry.values for name, entry in self.stored.items()}
        outcomes = self.evaluator.differentiate([{**weights, flip.tensor: entry.values} for entry, flip in flipped])
        self.forward += len(flipped)
        damages = [self.clean.compute_damage("loss", outcome) for outcome in outcomes]
        for (_, flip), outcome in zip(flipped, outcomes, strict=True):
            self._offer(FoundFlips(outcome, (*self.state.flips, flip)))
        taken = damages.index(max(damages))
        entry, flip = flipped[taken]
        self.stored[flip.tensor] = entry
        self.state = FoundFlips(outcomes[taken], (*self.state.flips, flip))
        return "non_finite" if outcomes[taken].non_finite else None

    def _offer(self, found: FoundFlips) -> None:
        for what, kept in self.worst.items():
            if self.clean.compute_damage(what, found.outcome) > self.clean.compute_damage(what, kept.outcome):
                self.worst[what] = found

    def differentiate(self) -> dict[str, Tensor]:
        """Return the gradient at the flipped weights, by tensor."""
        leaves = {name: entry.values.clone().requires_grad_() for name, entry in self.stored.items()}
        self.evaluator.differentiate([leaves])
        self.forward += 1
        self.backward += 1
        return self.evaluator.layout.split(self.evaluator.layout.gather(leaves))


def search_bit_flips(
    evaluator: Evaluator,
    grids: Mapping[str, Storage],
    gradient: Tensor,
    clean: Clean,
    counts: Sequence[int],
    settings: FlipSettings | None = None,
    stop_when: Callable[[Outcome], bool] | None = None,
) -> FlipSearch:
    """Find flips of stored bits that do much damage, at most n of them for each n in `counts`, over the evaluator's tensors.

    One flip at a time: the few best by first order are each applied and measured, the worst is kept, and the gradient
    is taken again there. Every measured set counts for all counts that allow it, so results never fall as n grows.

    Kind: lower_bound. Source: method section 6; the measured greedy search is that of Rakin et al. (ICCV 2019).

    Args:
        evaluator: of the scope.
        grids: Program.storage.
        gradient: [k], the gradient at w.
        clean: the outcome at w.
        counts: the numbers of flips asked for, each at least 1.
        settings: how many flips are measured per step, and which may be chosen.
        stop_when: told the worst outcomes after each flip; when it holds for one the search ends early.

    Returns:
        For each count the worst found for the loss and for each metric.
    """
    stored = read_stored(evaluator.session.program.weights, grids, evaluator.layout.names)
    settings = settings or FlipSettings()
    total, non_finite = count_flips(stored, settings.kinds)
    start = FoundFlips(Outcome(clean.loss, {**clean.metrics}, 0), ())
    worst = dict.fromkeys(("loss", *clean.metrics), start)
    search = _Search(evaluator, clean, settings, stored, start, worst)
    slopes = evaluator.layout.split(gradient)
    results: list[FlipResult] = []
    reason = None
    for count in range(1, max(counts) + 1):
        if reason is None and settings.should_stop():
            reason = "deadline"
        if reason is None:
            slopes = slopes if count == 1 else search.differentiate()
            reason = search.step(slopes)
        if reason is None and stop_when is not None and any(stop_when(found.outcome) for found in worst.values()):
            reason = "converged"
        if count in counts:
            results.append(FlipResult(count, {**search.worst}, search.forward, search.backward))
    return FlipSearch(tuple(results), reason or "budget", total, non_finite)


def count_most_flip_passes(counts: Sequence[int], settings: FlipSettings | None = None) -> Passes:
    """Return what search_bit_flips spends at most: a gradient and a few candidates for each flip; the first has its gradient.

    >>> count_most_flip_passes([1, 5])
    Passes(forward=44, backward=4)
    """
    flips, candidates = max(counts), (settings or FlipSettings()).candidates
    return Passes(candidates, 0) * flips + Passes(1, 1) * (flips - 1)


@dataclass(frozen=True)
class RandomFlips:
    """trials: what was measured. passed_over: drawn flips that would have made NaN or Inf, over all trials."""

    trials: tuple[FoundFlips, ...]
    passed_over: int


def draw_random_flips(
    evaluator: Evaluator, grids: Mapping[str, Storage], count: int, trials: int, seed: int, settings: FlipSettings | None = None
) -> RandomFlips:
    """Apply and measure `trials` sets of `count` distinct random flips, uniform over the scope's bits of the kinds allowed.

    Flips that would make NaN or Inf are counted and drawn again, unless the settings allow them.

    Returns:
        Every trial, and how many drawn flips were passed over.
    """
    settings = settings or FlipSettings()
    clean = read_stored(evaluator.session.program.weights, grids, evaluator.layout.names)
    found: list[FoundFlips] = []
    passed_over = 0
    for trial in range(trials):
        if settings.should_stop():
            break
        stored, flips = {**clean}, []
        for name, index, bit in _draw(clean, count, settings.kinds, np.random.default_rng([seed, trial])):
            entry, flip = stored[name].flip(name, index, bit)
            if settings.non_finite or math.isfinite(flip.new):
                stored[name] = entry
                flips.append(flip)
            else:
                passed_over += 1
            if len(flips) == count:
                break
        [outcome] = evaluator.differentiate([{name: entry.values for name, entry in stored.items()}])
        found.append(FoundFlips(outcome, tuple(flips)))
    return RandomFlips(tuple(found), passed_over)


def _draw(
    stored: Mapping[str, Stored], count: int, kinds: frozenset[str], generator: np.random.Generator
) -> Iterator[tuple[str, int, int]]:
    """Yield distinct (tensor, index, bit), uniform over the bits of these kinds; a few more than `count`."""
    names = list(stored)
    bits = [[bit for bit in range(entry.bits) if entry.name_kind(bit) in kinds] for entry in stored.values()]
    ends = np.cumsum([entry.codes.numel() * len(own) for entry, own in zip(stored.values(), bits, strict=True)])
    for drawn in generator.choice(ends[-1], size=min(MAX_DRAWS * count + 64, ends[-1]), replace=False):
        place = int(np.searchsorted(ends, drawn, side="right"))
        index, bit = divmod(int(drawn - (ends[place - 1] if place else 0)), len(bits[place]))
        yield names[place], index, bits[place][bit]
