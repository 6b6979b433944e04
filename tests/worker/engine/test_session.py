"""Evaluator, split programs and tallies against plain full evaluations."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.oracles import mean_cross_entropy
from tests.worker.engine.programs import build_mlp, build_program, build_session, make_step
from worker.engine.data.dataset import Dataset
from worker.engine.gradient import compute_gradient
from worker.engine.models.program import Step
from worker.engine.objective import Objective
from worker.engine.session import Evaluator, Session
from worker.engine.tally import LABELS_PER_FLUSH, Tally, compute_drop, find_outcomes


def corrupt_and_run(session: Session, names: list[str], corruption: torch.Tensor) -> torch.Tensor:
    sizes = [session.program.weights[name].numel() for name in names]
    pieces = corruption.split(sizes)
    changed = {n: session.program.weights[n] + p.view_as(session.program.weights[n]) for n, p in zip(names, pieces, strict=True)}
    return session.objective.select_output(session.program.forward(changed, session.dataset.inputs))


@pytest.mark.parametrize(
    "names", [["layer0.weight"], ["layer1.weight", "layer1.bias"], ["layer2.bias"], ["layer0.bias", "layer2.weight"]]
)
def test_split_evaluation_equals_full_evaluation(names: list[str]) -> None:
    session = build_session(build_mlp((5, 8, 7, 4))).cast(torch.float64)
    evaluator = Evaluator(session, names)
    generator = torch.Generator().manual_seed(0)
    corruptions = [torch.randn(evaluator.layout.size, generator=generator, dtype=torch.float64) for _ in range(3)]
    outcomes = evaluator.measure(corruptions)
    again = evaluator.measure(corruptions)
    for corruption, outcome in zip(corruptions, outcomes, strict=True):
        logits = corrupt_and_run(session, names, corruption)
        assert outcome.loss == pytest.approx(mean_cross_entropy(logits, session.dataset.target), rel=1e-12)
        assert outcome.metrics["accuracy"] == float((logits.argmax(-1) == session.dataset.target).double().mean())
    assert outcomes == again


def test_measuring_leaves_the_clean_weights_bit_for_bit() -> None:
    session = build_session(build_mlp((5, 8, 4)))
    before = {name: weight.clone() for name, weight in session.program.weights.items()}
    evaluator = Evaluator(session, list(before))
    evaluator.measure_with_gradient([torch.full((evaluator.layout.size,), 0.1, dtype=torch.float64)])
    assert all(torch.equal(before[name], session.program.weights[name]) for name in before)
    assert not any(weight.requires_grad for weight in session.program.weights.values())


def test_one_sum_with_signs_gives_the_size_of_single_gradients() -> None:
    for micro_batch in (1, 3, 16):
        session = build_session(build_mlp((4, 8, 3), seed=3), 16, 3, micro_batch=micro_batch)
        names = tuple(session.program.weights)
        singles = [compute_gradient(replace(session, dataset=session.dataset.take([row])), names).vector for row in (0, 4, 8, 12)]
        mean = sum(float(single.double().square().sum()) for single in singles) / 4
        assert mean / 4 < sum(compute_gradient(session, names).example_squares.values()) < 4 * mean


def test_gradient_equals_finite_differences_in_float64() -> None:
    session = build_session(build_mlp((3, 5, 4), activation="tanh")).cast(torch.float64)
    names = list(session.program.weights)
    gradient = compute_gradient(session, names).flatten(names)
    step = 1e-5
    for index in range(0, gradient.numel(), 7):
        a = torch.zeros_like(gradient)
        a[index] = step
        up, down = (mean_cross_entropy(corrupt_and_run(session, names, sign * a), session.dataset.target) for sign in (1, -1))
        assert float(gradient[index]) == pytest.approx((up - down) / (2 * step), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("micro_batch", [1, 7, 64])
def test_results_do_not_depend_on_the_micro_batch(micro_batch: int) -> None:
    program = build_mlp((5, 8, 4))
    reference, other = (build_session(program, micro_batch=size).cast(torch.float64) for size in (16, micro_batch))
    a = torch.randn(
        sum(w.numel() for w in program.weights.values()), generator=torch.Generator().manual_seed(4), dtype=torch.float64
    )
    [(expected, g)] = Evaluator(reference, list(program.weights)).measure_with_gradient([a])
    [(got, h)] = Evaluator(other, list(program.weights)).measure_with_gradient([a])
    assert got.loss == pytest.approx(expected.loss, rel=1e-12)
    assert got.metrics == expected.metrics
    assert torch.allclose(g, h, rtol=1e-10, atol=1e-13)


def test_shape_only_steps_are_known_from_the_input_shape_and_batches_may_differ() -> None:
    calls: list[tuple[int, ...]] = []

    def read_shape(value: torch.Tensor) -> torch.Tensor:
        calls.append(tuple(value.shape))
        return torch.tensor(value.shape)

    steps = [
        make_step("mul", torch.mul, ("x", "w.scale"), "scaled"),
        Step("shape", "shape", read_shape, ("scaled",), ("size",), shape_only=True),
        Step("reshape", "reshape", lambda value, size: value.reshape(size.tolist()), ("scaled", "size"), ("y",)),
    ]
    session = build_session(build_program({"w.scale": torch.ones(3)}, steps, ("y",)), examples=10, classes=3, micro_batch=4)
    evaluator = Evaluator(session, ["w.scale"])
    evaluator.measure([torch.zeros(3, dtype=torch.float64)] * 5)
    assert calls == [(4, 3), (2, 3)]


def test_a_step_that_writes_into_its_input_is_never_split() -> None:
    def halve(value: torch.Tensor) -> torch.Tensor:
        return value.mul_(0.5)

    steps = [make_step("halve", halve, ("x",), "h", mutates=True), make_step("mul", torch.mul, ("h", "w.scale"), "y")]
    session = build_session(build_program({"w.scale": torch.ones(3)}, steps, ("y",)), classes=3)
    kept = session.dataset.inputs["x"].clone()
    zero = torch.zeros(3, dtype=torch.float64)
    first, second = Evaluator(session, ["w.scale"]).measure([zero, zero])
    assert first == second
    assert torch.equal(kept, session.dataset.inputs["x"])
    assert first.loss == pytest.approx(mean_cross_entropy(kept * 0.5, session.dataset.target), rel=1e-6)


def test_weights_without_a_path_to_the_loss_are_found() -> None:
    steps = [make_step("mul", torch.mul, ("x", "a.w"), "y"), make_step("mul", torch.mul, ("x", "b.w"), "aside")]
    session = build_session(build_program({"a.w": torch.ones(3), "b.w": torch.ones(3)}, steps, ("y",)), classes=3)
    assert compute_gradient(session, ["a.w", "b.w"]).reached == ("a.w",)


def test_token_labels_and_ignored_labels() -> None:
    logits = torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 5, (4, 6), generator=torch.Generator().manual_seed(1))
    labels[0, :3] = -100
    tally = Tally(Objective(metrics=("accuracy", "error_rate", "top_5", "perplexity")))
    for part in (slice(0, 1), slice(1, 4)):
        tally.add(logits[part], labels[part])
    outcome = tally.outcome()
    counted = labels != -100
    assert outcome.loss == pytest.approx(mean_cross_entropy(logits, labels), rel=1e-6)
    assert outcome.metrics["accuracy"] == float((logits.argmax(-1) == labels)[counted].double().mean())
    assert outcome.metrics["error_rate"] == pytest.approx(1 - (outcome.metrics["accuracy"] or 0))
    assert outcome.metrics["top_5"] == 1.0
    assert outcome.metrics["perplexity"] == pytest.approx(math.exp(outcome.loss or 0))


def test_a_non_finite_example_is_counted_and_wrong() -> None:
    logits = torch.tensor([[2.0, 1.0], [float("nan"), 1.0], [0.0, float("inf")]])
    tally = Tally(Objective())
    tally.add(logits, torch.tensor([0, 1, 1]))
    outcome = tally.outcome()
    assert (outcome.loss, outcome.non_finite) == (None, 2)
    assert outcome.metrics["accuracy"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("examples", [3, LABELS_PER_FLUSH // 3, LABELS_PER_FLUSH + 5])
def test_outcomes_found_together_are_those_found_alone(examples: int) -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = [torch.randn(examples, 4, generator=generator) for _ in range(5)]
    outputs[1][1, 2] = float("inf")
    target = torch.randint(4, (examples,), generator=generator)
    target[0] = -100
    objective = Objective(metrics=("accuracy", "top_5"))

    def fill(output: Tensor) -> Tally:
        tally = Tally(objective)
        for part in (slice(0, 2), slice(2, None)):
            tally.add(output[part], target[part])
        return tally

    together, alone = find_outcomes([fill(output) for output in outputs]), [fill(output).outcome() for output in outputs]
    assert [entry.metrics for entry in together] == [entry.metrics for entry in alone]
    assert [entry.non_finite for entry in together] == [0, 1, 0, 0, 0]
    for found, expected in zip(together, alone, strict=True):
        assert found.loss == (None if expected.loss is None else pytest.approx(expected.loss, rel=1e-12))


@pytest.mark.parametrize(("loss", "metric"), [("mse", "mse"), ("bce_with_logits", "accuracy")])
def test_elementwise_losses(loss: str, metric: str) -> None:
    output = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    target = (torch.rand(5, 3, generator=torch.Generator().manual_seed(1)) > 0.5).float()
    tally = Tally(Objective(loss=loss, metrics=(metric,)))
    tally.add(output, target)
    outcome = tally.outcome()
    squares = [(o - t) ** 2 for o, t in zip(output.flatten().tolist(), target.flatten().tolist(), strict=True)]
    logs = [
        math.log1p(math.exp(-o if t else o)) for o, t in zip(output.flatten().tolist(), target.flatten().tolist(), strict=True)
    ]
    assert outcome.loss == pytest.approx(math.fsum(squares if loss == "mse" else logs) / 15, rel=1e-6)
    right = [(o > 0) == (t == 1) for o, t in zip(output.flatten().tolist(), target.flatten().tolist(), strict=True)]
    assert outcome.metrics[metric] == (outcome.loss if metric == "mse" else sum(right) / 15)


def test_probabilities_and_log_probabilities_give_the_loss_of_their_logits() -> None:
    logits, labels = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3, 0, 1])
    for kind, output in [("probabilities", logits.softmax(-1)), ("log_probabilities", logits.log_softmax(-1))]:
        losses = Objective(output_kind=kind).compute_losses(output, labels)
        assert float(losses.mean()) == pytest.approx(mean_cross_entropy(logits, labels), rel=1e-5)


def test_drop_is_positive_when_a_metric_gets_worse() -> None:
    assert compute_drop("top_5", 0.9, 0.5) == pytest.approx(0.4)
    assert compute_drop("error_rate", 0.1, 0.5) == pytest.approx(0.4)
    assert compute_drop("mse", 1.0, None) is None


def test_large_data_is_evaluated_the_same_when_boundaries_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    session = build_session(build_mlp((5, 8, 4)))
    a = [torch.full((36,), 0.05, dtype=torch.float64)]
    kept = Evaluator(session, ["layer1.weight", "layer1.bias"]).measure(a)
    monkeypatch.setattr("worker.engine.session.BOUNDARY_BYTES", 600)
    assert Evaluator(session, ["layer1.weight", "layer1.bias"]).measure(a) == kept


def test_batches_cover_the_data_in_order() -> None:
    dataset = Dataset({"x": torch.arange(10.0)[:, None]}, torch.arange(10))
    assert [target.tolist() for _, target in dataset.batches(4)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
