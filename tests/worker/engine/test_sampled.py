"""Samples of a data set: what is drawn, what the figures are, and how often their limits hold."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.nn import functional

from schemas.errors import AuditError, DataMismatch
from tests.worker.engine.programs import build_mlp, build_session
from worker.engine.corruption import CorruptionSet, compute_closed_form
from worker.engine.data.dataset import Dataset
from worker.engine.data.rows import StoredRows
from worker.engine.gradient import compute_gradient
from worker.engine.objective import Objective
from worker.engine.population import Figure, Population, Sample
from worker.engine.sampled import Plan, read_figures
from worker.engine.session import Evaluator, Session
from worker.engine.statistics.fixed import compute_share_limits
from worker.engine.statistics.interval import Threshold
from worker.engine.statistics.precision import Target

LOSS, DROP, ACCURACY = Figure("loss"), Figure("accuracy"), Figure("accuracy", is_value=True)
FIXED = Plan(0.95)


def corrupt(session: Session, size: float, seed: int = 5) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: w + size * torch.randn(w.shape, generator=generator) for name, w in session.program.weights.items()}


def build_sequences(examples: int = 60) -> Session:
    """Return a session on sequences of five labels, of which zero to five count."""
    generator = torch.Generator().manual_seed(2)
    labels = torch.randint(0, 4, (examples, 5), generator=generator)
    labels[torch.arange(5) >= torch.randint(0, 6, (examples, 1), generator=generator)] = -100
    inputs = torch.randn(examples, 5, 3, generator=generator)
    objective = Objective(metrics=("accuracy", "error_rate"))
    return Session(build_mlp((3, 6, 4)), Dataset({"x": inputs}, labels), objective, 7)


def run_by_hand(weights: dict[str, Tensor], inputs: Tensor) -> Tensor:
    hidden = functional.linear(inputs, weights["layer0.weight"], weights["layer0.bias"]).relu()
    return functional.linear(hidden, weights["layer1.weight"], weights["layer1.bias"])


def test_the_two_samples_are_seeded_and_drawn_apart() -> None:
    session = build_session(build_mlp((3, 6, 4)), examples=200)
    numbered = Session(
        session.program, Dataset(session.dataset.inputs, torch.arange(200) % 4), session.objective, session.micro_batch
    )
    first, again, other = (Population(numbered, Sample(50, seed), "cpu") for seed in (1, 1, 2))
    rows = [population.draw_search_sample().dataset.inputs["x"] for population in (first, again, other)]
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])
    places = [int((session.dataset.inputs["x"] == row).all(1).nonzero()) for row in rows[0]]
    assert places == sorted(set(places))  # file order, none twice
    losses = functional.cross_entropy(
        run_by_hand(session.program.weights, session.dataset.inputs["x"]), numbered.dataset.target, reduction="none"
    )
    measured = first.measure_clean(0, 50).losses
    drawn = [int(np.abs(losses.detach().numpy() - loss).argmin()) for loss in measured]
    assert len(set(drawn)) == 50
    assert 0 < len(set(drawn) & set(places)) < 25  # about 12 of 50, were they drawn apart


def test_a_mean_over_labels_holds_where_examples_have_different_numbers_of_them() -> None:
    session = build_sequences()
    population, weights = Population(session, Sample(30, 0), "cpu"), corrupt(session, 0.5)
    figures = [Figure(what, is_value) for what in ("loss", "accuracy", "error_rate") for is_value in (False, True)]
    found = read_figures(population, weights, dict.fromkeys(figures, Target()), Plan(0.95, 8))
    assert found.examples == 60
    target, counted = session.dataset.target, session.dataset.target != -100
    logits = [run_by_hand(used, session.dataset.inputs["x"]).double() for used in (session.program.weights, weights)]
    losses = [float(functional.cross_entropy(out[counted], target[counted])) for out in logits]
    right = [float((out.argmax(-1) == target)[counted].double().mean()) for out in logits]
    known = [losses[1] - losses[0], losses[1], right[0] - right[1], right[1], right[0] - right[1], 1 - right[1]]
    assert [found.answers[figure].estimate for figure in figures] == pytest.approx(known, rel=1e-6)
    assert {answer.interval.method for answer in found.answers.values()} == {"exact"}
    tally = Evaluator(session, list(weights)).measure(
        [torch.cat([(weights[n] - w).flatten() for n, w in session.program.weights.items()])]
    )
    assert tally[0].metrics["accuracy"] == pytest.approx(right[1])


@pytest.mark.parametrize("figure", [DROP, ACCURACY])
@pytest.mark.parametrize("precise", [False, True])
def test_limits_of_samples_hold_as_often_as_they_say(figure: Figure, precise: bool) -> None:
    session = build_sequences() if figure == DROP else build_session(build_mlp((3, 6, 4)), examples=100)
    weights, runs, held = corrupt(session, 0.5), 200, np.zeros(2)
    whole = read_figures(Population(session, Sample(9, 0), "cpu"), weights, {figure: Target()}, Plan(0.9, 8)).answers[figure]
    plan = Plan(0.9, 8) if precise else Plan(0.9)
    target = Target(thresholds=(Threshold(whole.estimate + 1e-9),))
    for seed in range(runs):
        population = Population(session, Sample(25, seed), "cpu")
        interval = read_figures(population, weights, {figure: target}, plan).answers[figure].interval
        held += interval.lower <= whole.estimate + 1e-12, interval.upper >= whole.estimate - 1e-12
    assert held.min() >= stats.binom.ppf(0.001, runs, 0.9)
    assert precise or figure == DROP or held.max() < runs  # the tightest limits there are do not always hold


def test_limits_from_what_was_searched_would_not_hold() -> None:
    # Searched on 20 of 120 examples: on those a corruption does more damage than on the rest.
    session, runs, same, apart = build_session(build_mlp((3, 24, 4)), examples=120), 120, 0, 0
    names = list(session.program.weights)
    for seed in range(runs):
        population = Population(session, Sample(20, seed), "cpu")
        sample = population.draw_search_sample()
        gradient = compute_gradient(sample, names).flatten(names)
        weights = Evaluator(session, names).layout.apply(compute_closed_form(gradient, CorruptionSet(2.0, 1.0)).corruption)
        truth = read_figures(population, weights, {ACCURACY: Target()}, Plan(0.95, 60)).answers[ACCURACY].estimate
        apart += read_figures(population, weights, {ACCURACY: None}, FIXED).answers[ACCURACY].interval.upper < truth
        right = Evaluator(sample, names).measure(
            [torch.cat([(weights[n] - session.program.weights[n]).flatten() for n in names])]
        )
        searched = round(20 * (right[0].metrics["accuracy"] or 0.0))
        same += compute_share_limits(searched, 20, 120).upper < truth
    assert apart <= stats.binom.ppf(0.999, runs, 0.05)
    assert same > stats.binom.ppf(0.999, runs, 0.05)


def test_a_clear_threshold_takes_few_examples_and_clean_ones_are_run_once() -> None:
    session = build_session(build_mlp((3, 6, 4)), examples=4000)
    population = Population(session, Sample(100, 0), "cpu")
    asked = {DROP: Target(thresholds=(Threshold(0.9),)), ACCURACY: None}
    found = read_figures(population, corrupt(session, 0.01), asked, Plan(0.95, 64))
    assert found.examples == found.answers[ACCURACY].interval.sample == population.drawn == 64
    assert found.answers[DROP].interval.upper < 0.9
    read_figures(population, corrupt(session, 0.02), asked, Plan(0.95, 64))
    assert population.drawn == 64


def test_a_loss_that_is_not_finite_ends_its_drawing_and_counts_as_wrong() -> None:
    session = build_session(build_mlp((3, 6, 4)), examples=100)
    population = Population(session, Sample(30, 0), "cpu")
    broken = {**session.program.weights, "layer1.bias": torch.tensor([torch.nan, 0, 0, 0])}
    found = read_figures(population, broken, {LOSS: None, ACCURACY: None}, FIXED)
    assert (found.non_finite, found.examples) == (30, 30)
    assert LOSS not in found.answers
    assert found.answers[ACCURACY].estimate == 0.0
    assert read_figures(population, broken, {LOSS: None}, FIXED).answers == {}


def test_a_clean_model_that_is_not_finite_is_refused() -> None:
    session = build_session(build_mlp((3, 6, 4)), examples=100)
    session.program.weights["layer1.bias"][:] = torch.inf
    with pytest.raises(AuditError, match="uncorrupted model"):
        read_figures(Population(session, Sample(30, 0), "cpu"), {}, {ACCURACY: None}, FIXED)


def test_a_search_sample_without_a_label_is_refused() -> None:
    session = build_session(build_mlp((3, 6, 4)), examples=100)
    session.dataset.target[1:] = -100
    with pytest.raises(DataMismatch, match="has a label"):
        Population(session, Sample(2, 0), "cpu").draw_search_sample()


def test_rows_that_stay_in_their_file_are_drawn_like_those_in_memory(tmp_path: Path) -> None:
    held = build_session(build_mlp((3, 6, 4)), examples=80)
    inputs = held.dataset.inputs["x"]
    (tmp_path / "x").write_bytes(inputs.numpy().tobytes())
    stored = StoredRows(tmp_path / "x", 0, 80, (3,), torch.float32)
    filed = replace(held, dataset=Dataset({"x": stored}, held.dataset.labels))
    populations = [Population(session, Sample(30, 4), "cpu") for session in (held, filed)]
    samples = [population.draw_search_sample().dataset.inputs["x"] for population in populations]
    assert torch.equal(*samples)
    weights = corrupt(held, 0.3)
    readings = [read_figures(population, weights, {DROP: None, LOSS: None}, FIXED) for population in populations]
    assert readings[0] == readings[1]
