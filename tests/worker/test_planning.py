"""Plans: never fewer passes than an audit spends, the same cells and coverage, seconds of the right size, the same refusals."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from schemas.errors import FaultlineError, UnsupportedOperator
from schemas.plan import PlannedAudit, UnsupportedFigures
from schemas.problem import build_problem
from schemas.report import Measurement
from schemas.request import AuditRequest
from tests.examples.artifacts import ARTIFACTS
from tests.worker.audits import DIGEST, write_job
from tests.worker.engine.models.onnx.graphs import initializer, node, save
from tests.worker.test_audit import write_gated
from worker.audit import AuditInput, measure_audit
from worker.planning import plan_audit

COUNTED = {"search", "breaking_points", "bit_flips"}
"""The work whose passes a report counts."""


def plan(job: AuditInput) -> PlannedAudit:
    planned = plan_audit(job, lambda *_: None, time.process_time)
    assert isinstance(planned, PlannedAudit)
    return planned


def count_planned(planned: PlannedAudit) -> int:
    return sum(part.passes.forward + part.passes.backward for part in planned.parts if part.work in COUNTED)


def count_spent(measured: Measurement) -> int:
    spent = [entry.passes for entry in measured.findings]
    spent += [entry.passes for entry in measured.breaking_points]
    spent += [entry.passes for entry in measured.bit_flips]
    return sum(passes.forward + passes.backward for passes in spent)


FLIPS = [{"counts": [1, 4], "match": "*.weight", "random_trials": 3}, {"counts": [2], "kinds": ["sign"], "random_trials": 0}]
POINTS = [{"limit": {"loss_change": 0.5}}, {"limit": {"metric": "accuracy", "drop": 0.2}, "scope": "2", "range": [0.1, 10]}]
REQUESTS: dict[str, dict[str, Any]] = {
    "first order": {"search": {"method": "first_order"}},
    "reapplied": {"search": {"method": "reapplied", "budget_passes": 9}},
    "ascent": {"search": {"method": "ascent", "budget_passes": 12}},
    "second order": {"search": {"method": "second_order", "budget_passes": 40}},
    "auto": {"search": {"budget_passes": 33, "random_trials": 2}},
    "one pass": {"search": {"budget_passes": 1}},
    "few weights": {"sets": [{"norm": 2, "epsilon": [0.3, 0.5], "max_corrupted": [None, 1, 4]}], "search": {"budget_passes": 40}},
    "preset": {"sets": None},
    "breaking points": {"breaking_points": POINTS, "search": {"budget_passes": 8}},
    "breaking points in n": {"breaking_points": [{"limit": {"loss_change": 0.5}, "along": "max_corrupted", "epsilon": 0.5}]},
    "bit flips": {"bit_flips": FLIPS},
    "no labels": {"objective": {"loss": "kl_to_clean"}, "search": {"budget_passes": 16}},
}


@pytest.mark.parametrize("name", REQUESTS)
def test_an_audit_never_spends_more_than_was_planned(name: str, tmp_path: Path) -> None:
    job = write_job(tmp_path, **REQUESTS[name])
    planned, measured = plan(job), measure_audit(job, lambda *_: None)
    assert count_planned(planned) >= count_spent(measured) > 0
    assert planned.cells == len(measured.findings)
    assert planned.coverage == measured.coverage
    assert sum(scopes.scopes for scopes in planned.scopes) == len({f.scope.name for f in measured.findings})
    assert planned.parity == measured.environment.parity
    assert planned.memory.micro_batch == measured.environment.micro_batch


@pytest.mark.parametrize(("name", "slack"), [("first order", 1.0), ("reapplied", 1.3), ("ascent", 1.3), ("auto", 1.1)])
def test_plans_are_close_where_searches_use_what_they_may(name: str, slack: float, tmp_path: Path) -> None:
    job = write_job(tmp_path, scopes=["per_module"], **REQUESTS[name])
    assert count_planned(plan(job)) <= slack * count_spent(measure_audit(job, lambda *_: None))


def test_every_part_of_a_request_is_counted(tmp_path: Path) -> None:
    job = write_job(
        tmp_path,
        sets=[{"norm": 2, "epsilon": [0.1, 0.3]}],
        scopes=["model", "per_tensor"],
        search={"budget_passes": 10, "random_trials": 3},
        theory={"upper_bounds": True, "smoothness": True},
        breaking_points=[{"limit": {"loss_change": 1.0}, "range": [1.0, 1.1]}],
        bit_flips=[{"counts": [3], "random_trials": 5}],
        evaluate_on={"uri": f"artifact:sha256:{DIGEST}"},
    )
    with np.load(job.data_path) as arrays:
        np.savez(tmp_path / "held.npz", inputs=arrays["inputs"][:20], labels=arrays["labels"][:20])
    planned = plan(AuditInput(job.request, job.model_path, job.data_path, job.scratch, held_out_path=tmp_path / "held.npz"))
    found = [
        (part.work, part.scope, part.count, part.passes.forward, part.passes.backward, part.examples) for part in planned.parts
    ]
    assert found == [
        ("gradient", "model", 1, 1, 1, 90),
        ("breaking_points", "model", 3, 3 * 6, 3 * 4, 90),
        ("search", "model", 2, 2 * 6, 2 * 4, 90),
        ("random_trials", "model", 2, 2 * 3, 0, 90),
        ("search", "per_tensor", 8, 8 * 6, 8 * 4, 90),
        ("random_trials", "per_tensor", 8, 8 * 3, 0, 90),
        ("upper_bounds", "all", 10, 5 * 10, 0, 90),
        # Five scopes of 67, 32, 8, 24 and 3 weights: no more products than dimensions, one forward and two backward passes each.
        ("smoothness", "all", 5, 20 + 20 + 8 + 20 + 3, 2 * 71, 90),
        ("bit_flips", "*", 1, 3 * 8 + 2, 2, 90),
        ("random_flips", "*", 1, 5, 0, 90),
        ("held_out", "all", 10, 1 + 10 * 2, 0, 20),
    ]
    assert planned.passes.forward == sum(part.passes.forward for part in planned.parts)
    assert planned.held_out_examples == 20
    assert planned.seconds.total <= planned.seconds.at_most


@pytest.mark.parametrize(("precision", "drawn"), [(None, 30), ({"relative_error": 0.5}, 90)])
def test_what_a_sample_saves_is_counted(precision: dict[str, float] | None, drawn: int, tmp_path: Path) -> None:
    job = write_job(
        tmp_path,
        scopes=["model"],
        data={"uri": f"artifact:sha256:{DIGEST}", "max_examples": 30},
        precision=precision,
        search={"budget_passes": 10, "random_trials": 0},
        theory={"upper_bounds": True},
        breaking_points=[{"limit": {"loss_change": 1.0}, "range": [1.0, 1.1]}],
    )
    planned = plan(job)
    assert [(part.work, part.passes.forward, part.examples) for part in planned.parts] == [
        ("gradient", 1, 30),
        ("breaking_points", 3 * 6, 30),
        ("sampled", 3, drawn),
        ("search", 6, 30),
        ("sampled", 1 + 1 * 2, drawn),
    ]
    assert (planned.examples, planned.labels_counted, planned.search_examples) == (90, 90, 30)


def test_memory_is_that_of_the_tensors(tmp_path: Path) -> None:
    memory = plan(write_job(tmp_path)).memory
    assert memory.weights_bytes == memory.gradient_bytes == 4 * (4 * 8 + 8 + 8 * 3 + 3)
    # The input, both layers and the activation; views of them may count again.
    assert 4 * (4 + 8 + 8 + 3) <= memory.activations_bytes < 2 * 4 * (4 + 8 + 8 + 3)
    assert memory.kept_bytes == 90 * memory.activations_bytes
    parts = [memory.weights_bytes, memory.gradient_bytes, 2 * 256 * memory.activations_bytes, memory.kept_bytes]
    assert memory.total_bytes == sum(parts) + memory.search_bytes


def test_what_no_loss_reads_is_known_beforehand(tmp_path: Path) -> None:
    planned = plan(write_gated(tmp_path))
    assert planned.coverage.weights_audited == 30
    assert [(flag.code, flag.scope) for flag in planned.flags] == [("no_parameters", "unused")]


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        ("digits_mlp.onnx", {}),
        ("digits_cnn.onnx", {"sets": [{"norm": 2, "epsilon": [0.1]}], "search": {"budget_passes": 9, "random_trials": 5}}),
        ("digits_cnn.pt", {"sets": [{"norm": 2, "epsilon": [0.1]}], "search": {"method": "first_order"}}),
        ("characters.onnx", {"sets": [{"norm": 2, "epsilon": [0.1]}], "search": {"method": "first_order", "random_trials": 4}}),
    ],
)
def test_seconds_are_of_the_right_size(model: str, fields: dict[str, Any], tmp_path: Path) -> None:
    uri = {"uri": f"artifact:sha256:{DIGEST}"}
    data = ARTIFACTS / ("text.npz" if model.startswith("characters") else "digits.npz")
    job = AuditInput(AuditRequest.model_validate({"model": uri, "data": uri, **fields}), ARTIFACTS / model, data, tmp_path)
    estimated = plan(job).seconds.total
    started = time.process_time()
    measure_audit(job, lambda *_: None)
    assert 1 / 3 < estimated / (time.process_time() - started) < 3


def test_what_a_corruption_costs_once_is_not_counted_per_batch(tmp_path: Path) -> None:
    wide = nn.Sequential(nn.Linear(4, 1000), nn.ReLU(), nn.Linear(1000, 1000), nn.ReLU(), nn.Linear(1000, 3))
    job = write_job(tmp_path, wide, scopes=["model"], search={"method": "first_order", "random_trials": 4})
    with np.load(job.data_path) as arrays:
        np.savez(job.data_path, inputs=np.tile(arrays["inputs"], (10, 1)), labels=np.tile(arrays["labels"], 10))
    estimated = plan(job).seconds.total
    started = time.process_time()
    measure_audit(job, lambda *_: None)
    assert 1 / 3 < estimated / (time.process_time() - started) < 3


def test_a_plan_refuses_what_an_audit_refuses(tmp_path: Path) -> None:
    job = write_job(tmp_path, nn.Linear(4, 3), scopes=[{"name": "heads", "match": "head.*"}], objective={"output": 3})
    told = []
    for look in (plan, lambda given: measure_audit(given, lambda *_: None)):
        with pytest.raises(FaultlineError) as caught:
            look(job)
        told.append((caught.value.code, caught.value.faults))
    assert told[0] == told[1]
    assert len(told[0][1]) == 2


def write_bent(folder: Path) -> AuditInput:
    """Write an audit of a model with operators outside the tables between two layers, of 16 and of 12 weights."""
    nodes = [
        node("MatMul", ["inputs", "before"], ["a"]),
        node("Bend", ["a"], ["b"], name="first", domain="acme"),
        node("Bend", ["b"], ["c"], name="second", domain="acme"),
        node("StringSplit", ["c"], ["d"], name="words"),
        node("MatMul", ["d", "after"], ["y"]),
    ]
    stored = [initializer(name, np.ones(shape, np.float32)) for name, shape in (("before", (4, 4)), ("after", (4, 3)))]
    path = save(folder, nodes, stored=stored, inputs={"inputs": 1}, opsets={"": 20, "acme": 1})
    job = write_job(folder, scopes=[{"name": "heads", "match": "head.*"}])
    return AuditInput(job.request, path, job.data_path, job.scratch)


def test_a_plan_lists_the_operators_that_are_missing_and_how_far_an_audit_could_go(tmp_path: Path) -> None:
    job = write_bent(tmp_path)
    planned = plan_audit(job, lambda *_: None, time.process_time)
    assert isinstance(planned, UnsupportedFigures)
    assert [(entry.operator, entry.domain, entry.count, entry.nodes) for entry in planned.operators] == [
        ("Bend", "acme", 2, ("first", "second")),
        ("StringSplit", "ai.onnx", 1, ("words",)),
    ]
    assert planned.coverage is not None
    assert (planned.coverage.weights_supported, planned.coverage.weights_total) == (12, 28)
    with pytest.raises(UnsupportedOperator) as caught:
        measure_audit(job, lambda *_: None)
    assert planned.faults == build_problem(caught.value).errors
    assert any("head.*" in fault.what for fault in planned.faults)  # what else is wrong stands beside it
