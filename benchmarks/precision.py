"""Bar: on a clear-cut gate precision mode measures ten times fewer examples, and errs no more often than it says.

    python -m benchmarks.precision [--examples 50000] [--repeats 1000]

The data are the 500 held-out digits with seeded noise and brightness, each of the 50,000 examples drawn anew. The digits CNN is
audited twice, one step, whole model, at a norm that does little and at one that does much: on all of the data, and with a search
on 2,000 examples and the policy's thresholds. Counted are the examples measured (for the first audit those of the cells only).
Then what both corruptions of the second audit do to every example is computed once, and the examples are drawn in N other orders
through the code that stops the audit, up to the gate's decision. An error is a condition that fails where the figure on all of
the data keeps it, or holds where that does not. The near gates stand two points beside the figure. Exit code 1 when a bar is
missed.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path

import numpy as np
from torch import Tensor

from gate.beyond import Seen, judge_limits
from gate.damage import read_demand
from gate.evaluate import evaluate
from schemas.policy import Policy
from schemas.report import Report
from schemas.request import AuditRequest, read_precision
from worker.audit import AuditInput, measure_audit
from worker.beyond import show_interval
from worker.engine.counterexample import build_corruption, load_counterexample
from worker.engine.examples import ExampleSums
from worker.engine.opening import open_session
from worker.engine.population import Figure, Population
from worker.engine.sampled import Plan, read_figures
from worker.engine.session import Evaluator
from worker.engine.statistics.precision import Target, permute_rows
from worker.report import assemble_report
from worker.sources import build_source
from worker.targets import Targets

ARTIFACTS = Path(__file__).parents[1] / "examples" / "artifacts"
MILD, HARMFUL = 0.01, 0.3
LIMIT = 0.05
NEAR = 0.02
CONFIDENCE = 0.95
FEWER = 10
DROP = Figure("accuracy")
SEARCHED = 2000
KNOWN: dict[str, Tensor] = {"all": Tensor()}
"""Stands for the corrupted weights where what they do is known already."""


class Redrawn(Population):
    """A population whose examples were all measured before; each seed draws them in another order."""

    def __init__(self, whole: Population, clean: ExampleSums, corrupted: ExampleSums) -> None:
        self.__dict__ |= whole.__dict__
        self._all_clean, self._all_corrupted = clean, corrupted

    def redraw(self, seed: int) -> "Redrawn":
        """Forget what was drawn, and draw in another order."""
        self._rows, self._seen = permute_rows(len(self), seed), 0
        return self

    @property
    def drawn(self) -> int:
        """How many examples were asked for so far."""
        return self._seen

    def measure_clean(self, start: int, stop: int) -> ExampleSums:
        """Return what is known of the examples start..stop of the order."""
        self._seen = max(self._seen, stop)
        return self._look_up(self._all_clean, start, stop)

    def measure(self, parameters: Mapping[str, Tensor], start: int, stop: int) -> ExampleSums:  # noqa: ARG002 - known before
        """Return what is known of the examples start..stop of the order, corrupted."""
        return self._look_up(self._all_corrupted, start, stop)

    def _look_up(self, known: ExampleSums, start: int, stop: int) -> ExampleSums:
        rows = self._rows[start:stop]
        right = {top: values[rows] for top, values in known.right.items()}
        return ExampleSums(known.losses[rows], known.labels[rows], right)


def write_data(path: Path, examples: int) -> None:
    """Write digits with noise and another brightness, drawn from the 500 held-out ones."""
    generator = np.random.default_rng(0)
    with np.load(ARTIFACTS / "digits.npz") as data:
        rows = generator.integers(0, len(data["labels"]), examples)
        inputs, labels = data["inputs"][rows], data["labels"][rows]
    bright = generator.uniform(0.8, 1.2, (examples, 1, 1, 1))
    noisy = inputs * bright + 0.1 * generator.standard_normal(inputs.shape)
    np.savez(path, inputs=noisy.astype(np.float32), labels=labels)


def build_policy(limits: Mapping[float, float]) -> Policy:
    """Return a policy on the accuracy drop of the whole model at each norm."""
    conditions = [
        {
            "id": f"drop-{epsilon}",
            "where": {"scope": "model", "epsilon": epsilon},
            "require": {"metric": "accuracy", "drop_at_most": limit},
        }
        for epsilon, limit in limits.items()
    ]
    requires = {"clean": {"accuracy_at_least": 0.9}}
    return Policy.model_validate({"name": "clear-cut", "confidence": CONFIDENCE, "conditions": conditions, "requires": requires})


def build_request(policy: Policy, examples: int | None) -> AuditRequest:
    """Return the audit of the whole model at both norms; on a sample, with the policy's thresholds."""
    uri = {"uri": f"artifact:sha256:{'0' * 64}"}
    body = {
        "model": uri,
        "data": uri | {"max_examples": examples},
        "sets": [{"norm": 2, "epsilon": [MILD, HARMFUL]}],
        "scopes": ["model"],
        "search": {"method": "first_order", "budget_passes": 1, "random_trials": 0},
        "precision": None if examples is None else read_precision(policy).model_dump(),
    }
    return AuditRequest.model_validate(body)


def run_audit(job: AuditInput, policy: Policy) -> tuple[Report, list[str], float]:
    """Return report, outcome of each requirement and condition, and processor seconds of an audit."""
    job.scratch.mkdir()
    started = time.process_time()
    report = assemble_report(job.request, "0" * 64, measure_audit(job, lambda *_: None), 1, {})
    seconds, verdict = time.process_time() - started, evaluate(policy, report, "0" * 64, date(2026, 1, 1))
    return report, [*(part.outcome for part in verdict.requires), *(part.outcome for part in verdict.conditions)], seconds


def count_measured(report: Report) -> int:
    """Return how many examples were run to measure, the clean model's included; for an unsampled report those of its cells."""
    intervals = [{m.measured.interval, m.measured.metrics["accuracy"].interval} for m in report.findings]
    if not report.subject.data.sampled:
        return sum(finding.measured.examples for finding in report.findings)
    # Loss and accuracy have one corruption here, so they were measured together.
    cells = sum(max(one.sample for one in pair if one is not None) for pair in intervals)
    return cells + report.clean.metric_intervals["accuracy"].sample


def compare_audits(folder: Path, policy: Policy) -> tuple[bool, AuditInput]:
    """Print both audits; return whether precision mode keeps its bar, and its job."""
    jobs = [
        AuditInput(
            build_request(policy, examples), ARTIFACTS / "digits_cnn.onnx", folder / "data.npz", folder / f"audit-{examples}"
        )
        for examples in (None, SEARCHED)
    ]
    (whole, expected, slow), (sampled, outcome, fast) = (run_audit(job, policy) for job in jobs)
    ratio = count_measured(whole) / count_measured(sampled)
    print(f"all of the data: {', '.join(expected)}; {count_measured(whole)} examples measured, {slow:.1f} s of processor time")
    print(f"precision mode:  {', '.join(outcome)}; {count_measured(sampled)} examples measured, {fast:.1f} s")
    print(f"ratio {ratio:.0f}, the bar is {FEWER}")
    return outcome == expected and ratio >= FEWER, jobs[1]


def list_corrupted(job: AuditInput) -> Iterator[tuple[float, Redrawn]]:
    """Yield each norm of the audit and the population under its corruption, with every example measured."""
    opened = open_session(build_source(job))
    session, population = opened.session, opened.population
    if population is None:
        message = "the data is not larger than the sample"
        raise RuntimeError(message)
    layout = Evaluator(session, list(session.program.weights)).layout
    clean = population.measure_clean(0, len(population))
    for number, epsilon in enumerate((MILD, HARMFUL), start=1):
        pieces = load_counterexample(job.scratch / f"f-{number:04d}.npz")["loss"]
        weights = layout.apply(build_corruption(pieces, session.program.weights))
        yield epsilon, Redrawn(population, clean, population.measure(weights, 0, len(population)))


def compute_drop(population: Redrawn) -> float:
    """Return the accuracy drop on all of the data."""
    everything = Plan(CONFIDENCE, len(population))
    return read_figures(population.redraw(0), KNOWN, {DROP: Target()}, everything).answers[DROP].estimate


def repeat(population: Redrawn, drop: float, limit: float, repeats: int) -> tuple[float, int, int]:
    """Return the mean and the largest number of examples that a gate's decision took, and how often it was wrong."""
    policy = build_policy({MILD: limit})
    targets, demand = Targets(build_request(policy, SEARCHED)), read_demand(policy.conditions[0].require)
    right = "exceeded" if demand.is_exceeded(drop) else "holds"
    drawn, wrong = [], 0
    for seed in range(repeats):
        reading = read_figures(population.redraw(seed), KNOWN, {DROP: targets.find(DROP)}, targets.plan())
        answer = reading.answers[DROP]
        seen = Seen(answer.estimate, show_interval(answer.interval), "", "")
        wrong += judge_limits(seen, demand, CONFIDENCE).decision != right
        drawn.append(reading.examples)
    return float(np.mean(drawn)), max(drawn), wrong


def check_gates(job: AuditInput, repeats: int) -> bool:
    """Print what every gate took; return whether all keep the error rate, and the clear ones the number of examples."""
    print(f"{'norm':>6s} {'drop':>7s} {'limit':>7s} {'examples':>9s} {'most':>7s} {'fewer':>6s} {'wrong':>6s} of {repeats}")
    passed = True
    for epsilon, population in list_corrupted(job):
        drop = compute_drop(population)
        for limit in (LIMIT, drop + NEAR, drop - NEAR):
            if limit > 0:
                mean, most, wrong = repeat(population, drop, limit, repeats)
                fewer = len(population) / mean
                print(f"{epsilon:6.2f} {drop:7.4f} {limit:7.4f} {mean:9.0f} {most:7d} {fewer:6.1f} {wrong:6d}", flush=True)
                passed &= wrong <= (1 - CONFIDENCE) * repeats and (limit != LIMIT or fewer >= FEWER)
    return passed


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare the audits, then repeat the drawing."""
    parser = argparse.ArgumentParser(description="Count the examples that precision mode measures, and its errors.")
    parser.add_argument("--examples", type=int, default=50_000)
    parser.add_argument("--repeats", type=int, default=1000)
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder) / "data.npz", asked.examples)
        passed, job = compare_audits(Path(folder), build_policy({MILD: LIMIT, HARMFUL: LIMIT}))
        passed &= check_gates(job, asked.repeats)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
