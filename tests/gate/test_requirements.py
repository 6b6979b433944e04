"""`requires`: a clean model that is too bad fails; a report that does not answer the question is inconclusive."""

from datetime import date
from typing import Any

import pytest

from gate.evaluate import evaluate
from tests.gate.reports import DATA_SHA256, REPORT_SHA256, build_document, build_policy, build_report, build_request

LOOSE = {"require": {"loss_change_at_most": 1e6}}


def outcome_of(requires: dict[str, Any], **changes: Any) -> str:
    verdict = evaluate(build_policy(LOOSE, requires=requires), build_report(**changes), REPORT_SHA256, date(2026, 6, 1))
    [requirement] = verdict.requires
    assert requirement.met == (requirement.outcome == "pass")
    assert verdict.outcome == requirement.outcome
    assert requirement.message.endswith(".")
    return verdict.outcome


REQUIRES: list[tuple[dict[str, Any], str]] = [
    ({"clean": {"accuracy_at_least": 0.975}}, "pass"),
    ({"clean": {"accuracy_at_least": 0.9751}}, "fail"),
    ({"clean": {"loss_at_most": 0.0812}}, "pass"),
    ({"clean": {"loss_at_most": 0.08}}, "fail"),
    ({"search": {"method": "first_order"}}, "pass"),
    ({"search": {"method": "reapplied"}}, "pass"),
    ({"search": {"budget_passes_at_least": 64}}, "pass"),
    ({"search": {"budget_passes_at_least": 65}}, "inconclusive"),
    ({"examples_at_least": 500}, "pass"),
    ({"examples_at_least": 501}, "inconclusive"),
    ({"weights_audited_at_least": 1.0}, "pass"),
    ({"data_sha256": DATA_SHA256}, "pass"),
    ({"data_sha256": "0" * 64}, "inconclusive"),
]


@pytest.mark.parametrize(("requires", "outcome"), REQUIRES, ids=[str(requires) for requires, _ in REQUIRES])
def test_requirement_on_the_report_as_it_is(requires: dict[str, Any], outcome: str) -> None:
    assert outcome_of(requires) == outcome


def test_accuracy_that_was_not_measured_is_inconclusive() -> None:
    clean = {"loss": 0.1, "metrics": {"perplexity": 1.1}}
    assert outcome_of({"clean": {"accuracy_at_least": 0.5}}, clean=clean) == "inconclusive"


@pytest.mark.parametrize("search", [{"method": "first_order", "budget_passes": 64}, {"method": "guess"}, {}, None])
def test_a_weaker_or_unknown_search_is_inconclusive(search: dict[str, Any] | None) -> None:
    assert outcome_of({"search": {"method": "reapplied"}}, request=build_request() | {"search": search}) == "inconclusive"


def test_a_budget_that_is_not_told_is_inconclusive() -> None:
    request = build_request() | {"search": {"method": "reapplied"}}
    assert outcome_of({"search": {"budget_passes_at_least": 1}}, request=request) == "inconclusive"


@pytest.mark.parametrize(("wanted", "outcome"), [(0.5, "pass"), (0.5001, "inconclusive")])
def test_share_of_the_weights_that_was_audited(wanted: float, outcome: str) -> None:
    coverage = build_document()["coverage"]
    doubled = coverage | {"weights_total": 2 * coverage["weights_audited"]}
    assert outcome_of({"weights_audited_at_least": wanted}, coverage=doubled) == outcome


def test_every_stated_requirement_has_its_line() -> None:
    requires = {
        "clean": {"accuracy_at_least": 0.5, "loss_at_most": 1.0},
        "search": {"method": "reapplied", "budget_passes_at_least": 1},
        "examples_at_least": 1,
        "weights_audited_at_least": 0.1,
        "data_sha256": DATA_SHA256,
    }
    verdict = evaluate(build_policy(LOOSE, requires=requires), build_report(), REPORT_SHA256, date(2026, 6, 1))
    assert [requirement.name for requirement in verdict.requires] == [
        "clean.accuracy_at_least",
        "clean.loss_at_most",
        "search.method",
        "search.budget_passes_at_least",
        "examples_at_least",
        "weights_audited_at_least",
        "data_sha256",
    ]
    assert verdict.outcome == "pass"
