"""An audit that has to stop: what was measured is the report, the rest is listed, and nothing of it can pass."""

from dataclasses import replace
from datetime import date
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gate.evaluate import evaluate
from schemas.errors import DeadlineMissed
from schemas.policy import Policy
from schemas.report import Measurement
from tests.worker.audits import write_job
from worker.audit import AuditInput, measure_audit
from worker.deadline import Deadline, StopSign
from worker.engine.breaking_point import Probe, find_breaking_point
from worker.report import assemble_report

EVERYTHING: dict[str, Any] = {
    "sets": [{"norm": 2, "epsilon": [0.1, 0.3]}, {"norm": "inf", "epsilon": [0.01]}],
    "breaking_points": [{"limit": {"metric": "accuracy", "drop": 0.05}}],
    "bit_flips": [{"counts": [1, 3], "random_trials": 2}, {"counts": [2], "match": "0.*", "random_trials": 0}],
    "search": {"budget_passes": 6, "random_trials": 2},
}
LENIENT = Policy.model_validate({"name": "lenient", "conditions": [{"id": "c", "require": {"loss_change_at_most": 1e9}}]})


def stop_after(asks: int) -> StopSign:
    """Return a sign that says yes from the ask of this number on."""
    asked = count()
    return StopSign(lambda: next(asked) >= asks)


def measure(job: AuditInput, folder: Path, sign: StopSign) -> Measurement:
    folder.mkdir()
    return measure_audit(replace(job, scratch=folder, should_stop=sign), lambda *_: None)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> AuditInput:
    return write_job(tmp_path_factory.mktemp("job"), **EVERYTHING)


@pytest.fixture(scope="module")
def whole(job: AuditInput, tmp_path_factory: pytest.TempPathFactory) -> tuple[Measurement, int]:
    """The audit that nobody stops, and how often it asked."""
    asked = count()
    sign = StopSign(lambda: next(asked) < 0)
    measured = measure(job, tmp_path_factory.mktemp("whole") / "scratch", sign)
    assert (measured.complete, measured.unmeasured) == (True, ())
    return measured, next(asked)


@pytest.mark.parametrize("share", [0.05, 0.2, 0.4, 0.6, 0.8, 0.95])
def test_what_was_finished_is_as_in_the_whole_audit_and_the_rest_is_listed(
    share: float, job: AuditInput, whole: tuple[Measurement, int], tmp_path: Path
) -> None:
    full, asks = whole
    found = measure(job, tmp_path / "scratch", stop_after(int(share * asks)))
    by_id = {finding.id: finding for finding in full.findings}
    assert not found.complete
    done = [finding for finding in found.findings if finding.stop_reason != "deadline"]
    assert all(finding.model_dump(exclude=LEFT_OUT) == by_id[finding.id].model_dump(exclude=LEFT_OUT) for finding in done)
    listed = {(one.scope, str(one.set["norm"]), one.set["epsilon"]) for one in found.unmeasured if one.what == "finding"}
    shown = {(finding.scope.name, str(finding.set.norm), finding.set.epsilon) for finding in found.findings}
    assert listed.isdisjoint(shown)
    assert len(listed) + len(shown) == len(full.findings)
    assert len(found.breaking_points) + sum(one.what == "breaking_point" for one in found.unmeasured) == 1
    assert len(found.bit_flips) + sum(one.what == "bit_flips" for one in found.unmeasured) == 2
    for finding in found.findings:
        change, most = finding.measured.loss_change, by_id[finding.id].measured.loss_change
        assert change is not None
        assert most is not None
        assert change <= most or finding.stop_reason == "deadline"
    assert set(found.counterexamples) <= {finding.id for finding in found.findings}
    (flag,) = [flag for flag in found.flags if flag.code == "deadline"]
    assert (flag.severity, flag.evidence["unmeasured"]) == ("critical", len(found.unmeasured))


LEFT_OUT = {"normalised_loss_change"}
"""Measured after the search of a cell, if there is time."""


def test_an_incomplete_report_never_passes(job: AuditInput, whole: tuple[Measurement, int], tmp_path: Path) -> None:
    full, asks = whole
    found = measure(job, tmp_path / "scratch", stop_after(asks // 2))
    outcomes = {
        name: evaluate(LENIENT, assemble_report(job.request, "0" * 64, one, 100, {}), "0" * 64, date(2026, 1, 1))
        for name, one in (("full", full), ("cut", found), ("unflagged", found.model_copy(update={"flags": ()})))
    }
    assert {name: verdict.outcome for name, verdict in outcomes.items()} == {
        "full": "pass", "cut": "inconclusive", "unflagged": "inconclusive"
    }  # fmt: skip
    assert any("cut off at the deadline" in reason for reason in outcomes["cut"].reasons)


def test_an_audit_without_any_time_says_so(job: AuditInput, tmp_path: Path) -> None:
    with pytest.raises(DeadlineMissed, match="before anything was measured"):
        measure(job, tmp_path / "scratch", stop_after(0))


def test_a_preset_that_was_cut_off_in_its_breaking_point_has_a_bracket_that_holds(tmp_path: Path) -> None:
    job = write_job(tmp_path, search={"budget_passes": 6, "random_trials": 0}, sets=None)
    asked = count()
    whole = measure(job, tmp_path / "whole", StopSign(lambda: next(asked) < 0))
    found = measure(job, tmp_path / "cut", stop_after(12))
    (point,), (full,) = found.breaking_points, whole.breaking_points
    assert point.stop_reason == "deadline"
    assert point.evaluations < full.evaluations
    assert point.bracket.hi is not None
    assert full.bracket.hi is not None
    assert point.bracket.hi >= full.bracket.hi
    assert all(one.what == "finding" for one in found.unmeasured)
    assert found.unmeasured


@settings(max_examples=60, deadline=None)
@given(st.floats(1e-3, 50.0), st.integers(0, 12), st.booleans())
def test_a_search_that_is_cut_off_keeps_what_is_proved(crossing: float, tries: int, crosses: bool) -> None:
    tried: list[float] = []

    def probe(epsilon: float) -> Probe | None:
        if len(tried) >= tries and not (crosses and epsilon >= crossing and len(tried) == tries):
            return None
        tried.append(epsilon)
        return Probe(epsilon >= crossing, epsilon, 1, 1)

    found = find_breaking_point(probe, 1e-4, 100.0)
    assert found.evaluations == len(tried)
    assert found.lo is None or found.lo in tried
    assert found.hi is None or found.hi in tried
    assert (found.lo or 0) < crossing <= (found.hi or 1e9)
    assert found.cut_off == (
        found.evaluations == 0 or (found.hi is not None and (found.lo is None or found.hi / found.lo > 1.05))
    )


def test_a_deadline_is_past_when_its_time_is_over() -> None:
    assert [Deadline.after(left_s).is_past() for left_s in (None, 0.0, 1000.0)] == [False, True, False]
    assert not Deadline.after(0.0).is_past(grace_s=10)
    assert Deadline.after(None).left_s is None
    left_s = Deadline.after(50.0).left_s
    assert left_s is not None
    assert 49 < left_s <= 50
