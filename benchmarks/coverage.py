"""Bar: one-sided 95 % limits hold in at least 94 % of samples, and whoever stops at will errs in less than 5 %.

    python -m benchmarks.coverage [--samples N] [--only NET ...]

The populations are the 500 held-out digits under trained networks: loss and correctness of every example, clean and under
the first-order corruption of the whole model at each L2 norm in EPSILONS, and the paired differences. Fixed samples of
SIZES examples (of the first size for bounded values) are drawn N times without replacement (limits for the data set) and
with replacement (limits beyond it). Then N random orders are looked at after every batch until the data are used up; an
order counts as an error of a side when that limit was ever on the wrong side of the true mean, which is what whoever stops
at the threshold nearest to the truth gets. "infin.": samples or looks with an infinite limit, which holds but says nothing.
Exit code 1 when a line misses its bar.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.first_order import compute_clean
from worker.engine.corruption import CorruptionSet, compute_closed_form
from worker.engine.data.files import DataFile
from worker.engine.opening import Source, open_session
from worker.engine.session import Evaluator, Session
from worker.engine.statistics.asymptotic import AsymptoticSequence, compute_mean_limits
from worker.engine.statistics.betting import BettingSequence
from worker.engine.statistics.fixed import compute_bounded_limits, compute_share_limits
from worker.engine.statistics.interval import Interval
from worker.engine.statistics.sequence import ConfidenceSequence, Values

ARTIFACTS = Path(__file__).parent.parent / "examples" / "artifacts"
EPSILONS = {"digits_cnn": (0.1, 0.3), "digits_mlp": (0.3,)}
SIZES = (128, 256)
LOOKS = (64, 80, 100, 125, 156, 195, 244, 305, 381, 477)
"""Two of them serve for betting, whose limits take in every value between two looks by themselves."""
CONFIDENCE = 0.95
NOISE = 1e-12
"""Rounding of the true mean itself."""
HELD_BAR = 0.94
ERROR_BAR = 0.05

Limit = Callable[[Values, int | None], Interval]


@dataclass(frozen=True)
class Quantity:
    """One value per example, and the range it is known to lie in; None: unbounded."""

    name: str
    values: Values
    bounds: tuple[float, float] | None

    @property
    def is_binary(self) -> bool:
        """Whether every value is 0 or 1."""
        return self.bounds == (0.0, 1.0)


def measure_quantities(network: str) -> Iterator[Quantity]:
    """Yield what a network does on every example, clean and corrupted."""
    session = open_session(Source(ARTIFACTS / f"{network}.onnx", DataFile(ARTIFACTS / "digits.npz"), threads=1)).session
    gradient, _ = compute_clean(session)
    names = tuple(session.program.weights)
    layout = Evaluator(session, names).layout
    clean_loss, clean_right = measure_examples(session, {})
    yield Quantity("clean loss", clean_loss, None)
    for epsilon in EPSILONS[network]:
        corruption = compute_closed_form(gradient.flatten(names), CorruptionSet(2.0, epsilon)).corruption
        loss, right = measure_examples(session, layout.apply(corruption))
        yield Quantity(f"corrupted loss {epsilon}", loss, None)
        yield Quantity(f"loss change {epsilon}", loss - clean_loss, None)
        yield Quantity(f"accuracy {epsilon}", right, (0.0, 1.0))
        yield Quantity(f"accuracy drop {epsilon}", clean_right - right, (-1.0, 1.0))


def measure_examples(session: Session, parameters: dict[str, Tensor]) -> tuple[Values, Values]:
    """Return the loss of every example and whether it is classified correctly."""
    dataset, objective = session.dataset, session.objective
    with torch.no_grad():
        output = objective.select_output(session.program.forward(parameters, dataset.inputs))
        losses = objective.compute_losses(output, dataset.target)
        right = output.argmax(-1) == dataset.target
    return losses.double().numpy(), right.double().numpy()


def list_limits(quantity: Quantity) -> list[Limit]:
    """Return the methods for samples of fixed size that fit the quantity."""
    if quantity.bounds is None:
        return [lambda values, population: compute_mean_limits(values, population, CONFIDENCE)]
    low, high = quantity.bounds
    limits: list[Limit] = [lambda values, population: compute_bounded_limits(values, population, CONFIDENCE, low, high)]
    if quantity.is_binary:
        limits.append(lambda values, population: compute_share_limits(int(values.sum()), len(values), population, CONFIDENCE))
    return limits


def build_sequence(quantity: Quantity) -> ConfidenceSequence:
    """Return a new sequence for draws from the quantity without replacement."""
    count = len(quantity.values)
    if quantity.bounds is None:
        return AsymptoticSequence(count, CONFIDENCE)
    return BettingSequence(count, CONFIDENCE, *quantity.bounds)


def check_fixed(quantity: Quantity, samples: int) -> bool:
    """Print how often each method's limits hold at each size, with and without replacement; return whether all bars hold."""
    truth, count = float(quantity.values.mean()), len(quantity.values)
    passed = True
    for size in SIZES[: 2 if quantity.bounds is None else 1]:
        for limit in list_limits(quantity):
            for population in (count, None):
                generator = np.random.default_rng([size, population is None])
                rows = (generator.choice(count, size, replace=population is None) for _ in range(samples))
                intervals = [limit(quantity.values[chosen], population) for chosen in rows]
                held = [sum(found.lower <= truth + NOISE for found in intervals) / samples]
                held.append(sum(found.upper >= truth - NOISE for found in intervals) / samples)
                infinite = sum(np.isinf(found.lower) or np.isinf(found.upper) for found in intervals) / samples
                where = "D" if population else "beyond D"
                passed &= print_line(quantity.name, intervals[0].method, f"{size} {where}", held, infinite, HELD_BAR)
    return passed


def check_stopping(quantity: Quantity, samples: int) -> bool:
    """Print how often a limit is ever on the wrong side at a look; return whether both error rates are below the bar."""
    truth, count = float(quantity.values.mean()), len(quantity.values)
    generator, errors, infinite = np.random.default_rng(0), np.zeros(2), 0
    method = build_sequence(quantity).method
    looks = LOOKS if quantity.bounds is None else LOOKS[4::5]
    for _ in range(samples):
        order = quantity.values[generator.permutation(count)]
        sequence, wrong = build_sequence(quantity), np.zeros(2, dtype=bool)
        for part in np.split(order, looks):
            sequence.update(part)
            lower, upper = sequence.limits()
            wrong |= lower > truth + NOISE, upper < truth - NOISE
            infinite += bool(np.isinf(lower) or np.isinf(upper))
        errors += wrong
    held = (1 - errors / samples).tolist()
    return print_line(quantity.name, method, "stopped at will", held, infinite / (samples * (len(looks) + 1)), 1 - ERROR_BAR)


def print_line(name: str, method: str, sample: str, held: Sequence[float], infinite: float, bar: float) -> bool:
    """Print one line of the table and return whether both sides reach the bar."""
    passed = min(held) >= bar
    shares = " ".join(f"{100 * share:6.2f}" for share in (*held, infinite, bar))
    print(f"{name:20s} {method:20s} {sample:16s} {shares} {'' if passed else 'MISSED'}", flush=True)
    return passed


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the networks that the command line names."""
    parser = argparse.ArgumentParser(description="Check the coverage of one-sided limits on real losses and metrics.")
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--only", nargs="+", choices=[*EPSILONS], default=[*EPSILONS], metavar="NET")
    asked = parser.parse_args(arguments)
    passed = True
    for network in asked.only:
        print(f"{network}: per cent of {asked.samples} samples in which each limit holds")
        print(f"{'quantity':20s} {'method':20s} {'sample':16s} {'lower':>6s} {'upper':>6s} {'infin.':>6s} {'bar':>6s}")
        for quantity in measure_quantities(network):
            passed &= check_fixed(quantity, asked.samples)
            passed &= check_stopping(quantity, asked.samples)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
