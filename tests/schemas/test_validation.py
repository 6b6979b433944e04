"""Faults: one per location, unions told once, suggestions for typing mistakes, nothing that breaks a terminal."""

import unicodedata

import pytest
from hypothesis import given, settings

from schemas.errors import Fault, InvalidRequest
from schemas.policy import Policy
from schemas.problem import build_problem
from schemas.request import AuditRequest
from schemas.validation import MAX_FAULTS, check_document
from tests.schemas.test_contracts import JSON_VALUES

MODEL = {"uri": "artifact:sha256:" + "a" * 64}
DATA = {"uri": "artifact:sha256:" + "b" * 64}


def _faults(document: object) -> dict[str, Fault]:
    with pytest.raises(InvalidRequest) as caught:
        check_document(AuditRequest, document)
    assert len({fault.where for fault in caught.value.faults}) == len(caught.value.faults)
    return {fault.where: fault for fault in caught.value.faults}


def test_all_faults_come_at_once() -> None:
    sets = [{"norm": 0.5, "epsilon": [0, 1]}, {"epsilon": [1], "eps": 3}]
    faults = _faults({"data": {}, "sets": sets, "search": {"seed": -1}, "labels": {"a/b~c": 1}})
    assert set(faults) == {
        "/model",
        "/data/uri",
        "/sets/0/norm",
        "/sets/0/epsilon/0",
        "/sets/1/norm",
        "/sets/1/eps",
        "/search/seed",
        "/labels/a~1b~0c",
    }


def test_a_union_is_one_fault_with_every_choice() -> None:
    fault = _faults({"model": MODEL, "data": DATA, "sets": [{"norm": "two", "epsilon": [1]}]})["/sets/0/norm"]
    assert fault.expected == "a number or 'inf'"
    assert fault.got == '"two"'
    fault = _faults({"model": MODEL, "data": DATA, "scopes": [7]})["/scopes/0"]
    assert (
        fault.expected
        == "'model', 'per_module', 'per_tensor', 'per_component' or 'per_depth' or an object with the fields name, match"
    )


def test_inside_a_union_the_alternative_that_was_meant_is_told() -> None:
    faults = _faults({"model": MODEL, "data": DATA, "scopes": [{"name": "a b", "match": "*", "kind": "x"}]})
    assert set(faults) == {"/scopes/0/name", "/scopes/0/kind"}


@pytest.mark.parametrize(
    ("section", "typo", "meant"),
    [
        ("", "polcy", "policy"),
        ("search", "budget", "budget_passes"),
        ("objective", "metric", "metrics"),
        ("data", "labels", None),
    ],
)
def test_a_typing_mistake_gets_a_suggestion(section: str, typo: str, meant: str | None) -> None:
    document = {"model": MODEL, "data": DATA}
    extended = document | {typo: 1} if not section else document | {section: {"uri": DATA["uri"], typo: 1}}
    fault = _faults(extended)["/".join(["", *([section] if section else []), typo])]
    assert (fault.advice == f"Did you mean {meant}?") == (meant is not None)


def test_an_entry_s_fault_does_not_make_the_list_too_short() -> None:
    assert set(_faults({"model": MODEL, "data": DATA, "sets": [{"norm": 2, "epsilon": [0]}]})) == {"/sets/0/epsilon/0"}


def test_a_flood_of_faults_is_bounded_and_says_so() -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_document(AuditRequest, {f"x{i}": i for i in range(3 * MAX_FAULTS)})
    assert len(caught.value.faults) == MAX_FAULTS + 1
    assert caught.value.faults[-1].what.startswith("202 more")


def test_what_a_client_sent_cannot_move_the_cursor_of_who_reads_the_problem() -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_document(Policy, {"name": "p", "\x1b[2J": "\x1b[31m", "conditions": [{"id": "\u202e"}]})
    problem = build_problem(caught.value)
    told = "".join("".join(item.model_dump().values()) for item in problem.errors) + problem.detail
    assert len(problem.errors) >= 3
    assert {c for c in told if unicodedata.category(c)[0] == "C"} == set()


@settings(max_examples=80, deadline=None, derandomize=True)
@given(JSON_VALUES)
def test_any_json_is_accepted_or_refused_with_faults(document: object) -> None:
    for model in (AuditRequest, Policy):
        with pytest.raises(InvalidRequest) as caught:
            check_document(model, document)
        assert caught.value.faults
        build_problem(caught.value)
