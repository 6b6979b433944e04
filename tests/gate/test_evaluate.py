"""Properties of the gate over many reports and policies: it never opens by looking less, and moves one way with the damage."""

import copy
import json
import random
from collections.abc import Callable
from datetime import date
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gate.evaluate import RANK, evaluate
from schemas.base import canonical_bytes, compute_sha256
from schemas.policy import Policy
from schemas.report import Report
from schemas.verdict import Verdict
from tests.gate.reports import MODEL_SHA256, REPORT_SHA256, Finding, build_document, build_findings, build_point, build_policy

TODAY = date(2026, 6, 1)
PROPERTY = settings(max_examples=40, deadline=None, derandomize=True)

wheres = st.fixed_dictionaries(
    {},
    optional={
        "scope": st.sampled_from(["model", "per_module", "per_tensor", "features.*", "features.3", "nowhere"]),
        "norm": st.sampled_from([2, "inf"]),
        "epsilon": st.sampled_from([0.1, 0.3]),
    },
)
limits = st.floats(0, 4)
requires = st.one_of(
    st.builds(lambda limit: {"loss_change_at_most": limit}, limits),
    st.builds(lambda limit: {"metric": "accuracy", "drop_at_most": limit}, st.floats(0, 1)),
    st.builds(lambda limit: {"metric": "accuracy", "at_least": limit}, st.floats(0, 1)),
)
conditions = st.builds(
    lambda where, require, severity: {"where": where, "require": require, "severity": severity},
    wheres,
    requires,
    st.sampled_from(["error", "warning"]),
)
point_conditions = st.builds(lambda limit: {"require": {"breaking_point_at_least": limit}}, st.floats(0.01, 4))
condition_lists = st.lists(conditions | point_conditions, min_size=1, max_size=3)


@st.composite
def findings(draw: st.DrawFn) -> list[Finding]:
    """Draw a complete list of findings with any damage, some of it not finite or not searched."""
    drawn = build_findings()
    for finding in drawn:
        change, drop = draw(st.floats(-0.5, 4)), draw(st.floats(-0.02, 0.975))
        finding["measured"]["loss_change"] = finding["first_order"]["loss_change"] = change
        for part in ("measured", "first_order"):
            finding[part]["metrics"]["accuracy"] |= {"value": 0.975 - drop, "drop": drop}
        event = draw(st.sampled_from([*["fine"] * 12, "non_finite", "lost", "zero"]))
        if event == "non_finite":
            finding["measured"] |= {"loss_change": None, "non_finite": {"examples": 1}}
        if event == "lost":
            finding["measured"]["loss_change"] = None
        if event == "zero":
            finding |= {"stop_reason": "zero_gradient", "random": None}
    return drawn


def judge(policy: Policy, **changes: Any) -> Verdict:
    return evaluate(policy, Report.model_validate(build_document() | changes), REPORT_SHA256, TODAY)


def rank(policy: Policy, **changes: Any) -> int:
    return RANK[judge(policy, **changes).outcome]


@PROPERTY
@given(condition_lists, findings(), st.data())
def test_removing_findings_never_opens_the_gate(asked: list[Any], found: list[Finding], data: st.DataObject) -> None:
    removed = data.draw(st.sets(st.integers(0, len(found) - 1), min_size=1))
    kept = [finding for i, finding in enumerate(found) if i not in removed]
    assert judge(build_policy(*asked), findings=kept).outcome in {"fail", "inconclusive"}


@PROPERTY
@given(condition_lists, findings(), st.data())
def test_removing_breaking_points_never_turns_anything_into_a_pass(
    asked: list[Any], found: list[Finding], data: st.DataObject
) -> None:
    points = [build_point(0.9, 0.95), build_point(2.0, 2.1, "features.3")]
    policy = build_policy(*asked, {"require": {"breaking_point_at_least": data.draw(st.floats(0.1, 3))}})
    before = rank(policy, findings=found, breaking_points=points)
    assert rank(policy, findings=found, breaking_points=[]) >= min(before, RANK["inconclusive"])


@PROPERTY
@given(wheres, findings(), limits, limits)
def test_a_tighter_limit_never_helps(where: Any, found: list[Finding], one: float, two: float) -> None:
    tight, loose = sorted([one, two])
    pairs: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"loss_change_at_most": loose}, {"loss_change_at_most": tight}),
        ({"metric": "accuracy", "drop_at_most": loose / 4}, {"metric": "accuracy", "drop_at_most": tight / 4}),
        ({"metric": "accuracy", "at_least": tight / 4}, {"metric": "accuracy", "at_least": loose / 4}),
    ]
    for pair in pairs:
        ranks = [rank(build_policy({"where": where, "require": require}), findings=found) for require in pair]
        assert ranks == sorted(ranks)


def _raise_loss(finding: Finding) -> None:
    finding["measured"]["loss_change"] = (finding["measured"]["loss_change"] or 0.0) + 1.0


def _raise_drop(finding: Finding) -> None:
    kept = finding["measured"]["metrics"]["accuracy"]
    kept |= {"drop": kept["drop"] + 0.3, "value": kept["value"] - 0.3}


def _break(finding: Finding) -> None:
    finding["measured"] |= {"loss_change": None, "non_finite": {"examples": 1}}


def _raise_random(finding: Finding) -> None:
    if finding["random"] is not None:
        finding["random"]["loss_change"]["max"] += 1.0
        finding["random"]["metrics"]["accuracy"]["worst"] -= 0.3


@pytest.mark.parametrize("worsen", [_raise_loss, _raise_drop, _break, _raise_random])
@PROPERTY
@given(condition_lists, findings(), st.integers(0, 7))
def test_more_damage_never_helps(worsen: Callable[[Finding], None], asked: list[Any], found: list[Finding], which: int) -> None:
    policy = build_policy(*asked)
    if found[which]["measured"]["loss_change"] is None and worsen is _raise_loss:
        return  # a figure that was lost is no smaller than any other
    worse = copy.deepcopy(found)
    worsen(worse[which])
    before, after = rank(policy, findings=found), rank(policy, findings=worse)
    certain = (before, after) == (
        RANK["inconclusive"],
        RANK["warn"],
    )  # of a condition that warns: in doubt, now known to be broken
    assert after >= before or (certain and any(condition.severity == "warning" for condition in policy.conditions))


@PROPERTY
@given(condition_lists, findings())
def test_a_critical_flag_forbids_a_pass_and_hides_no_failure(asked: list[Any], found: list[Finding]) -> None:
    flag: dict[str, Any] = {
        "code": "not_deterministic",
        "severity": "critical",
        "scope": None,
        "evidence": {},
        "advice": "Export again.",
    }
    policy = build_policy(*asked)
    before = rank(policy, findings=found)
    assert rank(policy, findings=found, flags=[flag]) == max(before, RANK["inconclusive"])


@PROPERTY
@given(condition_lists, conditions, findings())
def test_one_more_condition_never_helps(asked: list[Any], more: Any, found: list[Finding]) -> None:
    assert rank(build_policy(*asked, more), findings=found) >= rank(build_policy(*asked), findings=found)


@PROPERTY
@given(condition_lists, findings())
def test_a_warning_is_never_stricter_than_an_error(asked: list[Any], found: list[Finding]) -> None:
    ranks = [
        rank(build_policy(*(entry | {"severity": kind} for entry in asked)), findings=found) for kind in ("warning", "error")
    ]
    assert ranks == sorted(ranks)


@PROPERTY
@given(condition_lists, findings(), st.sampled_from([None, "per_module", "features.*", "model"]))
def test_a_waiver_helps_at_most_to_a_warning_and_only_in_time(asked: list[Any], found: list[Finding], scope: str | None) -> None:
    waiver = {"condition": "c1", "scope": scope, "reason": "r", "owner": "o"}
    plain = judge(build_policy(*asked), findings=found).conditions
    valid = judge(build_policy(*asked, waivers=[waiver | {"expires": "2026-06-01"}]), findings=found).conditions
    expired = judge(build_policy(*asked, waivers=[waiver | {"expires": "2026-05-31"}]), findings=found).conditions
    assert expired == plain
    assert valid[1:] == plain[1:]
    assert valid[0] == plain[0] or (plain[0].outcome in {"fail", "warn"} and valid[0].outcome != "pass")
    assert RANK[valid[0].outcome] <= RANK[plain[0].outcome]


@PROPERTY
@given(condition_lists, findings(), st.randoms(use_true_random=False))
def test_the_order_of_findings_does_not_matter(asked: list[Any], found: list[Finding], chance: random.Random) -> None:
    shuffled = list(found)
    chance.shuffle(shuffled)
    before, after = (judge(build_policy(*asked), findings=order) for order in (found, shuffled))
    assert [(one.outcome, one.observed, one.matched) for one in before.conditions] == [
        (one.outcome, one.observed, one.matched) for one in after.conditions
    ]


@PROPERTY
@given(st.floats(0, 4), findings())
def test_a_pass_means_that_nothing_above_the_limit_was_found(limit: float, found: list[Finding]) -> None:
    """Compare with the plain statement, written without any of the gate's parts."""
    verdict = judge(build_policy({"require": {"loss_change_at_most": limit}}), findings=found)
    quiet = all(
        finding["measured"]["non_finite"] is None
        and finding["measured"]["loss_change"] is not None
        and finding["measured"]["loss_change"] <= limit + 1e-11
        and not (finding["stop_reason"] == "zero_gradient" and finding["random"] is None)
        and (finding["random"] is None or finding["random"]["loss_change"]["max"] <= limit + 1e-11)
        for finding in found
    )
    assert (verdict.outcome == "pass") == quiet


@PROPERTY
@given(condition_lists, findings())
def test_every_part_says_in_sentences_what_it_found(asked: list[Any], found: list[Finding]) -> None:
    verdict = judge(build_policy(*asked), findings=found)
    assert len(verdict.conditions) == len(asked)
    for condition in verdict.conditions:
        assert condition.message[0].isupper()
        assert condition.message.endswith(".")
        assert condition.outcome == "inconclusive" or condition.matched > 0
    assert Verdict.model_validate_json(canonical_bytes(verdict)) == verdict
    assert verdict.outcome == max((one.outcome for one in verdict.conditions), key=RANK.__getitem__)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(10**400)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "x"]), inner, max_size=3),
    max_leaves=8,
)


SETS = st.fixed_dictionaries({"norm": JSON, "epsilon": st.lists(JSON), "max_corrupted": st.lists(JSON), "scale": JSON})


@PROPERTY
@given(JSON | st.lists(JSON, min_size=1), JSON | st.lists(SETS, min_size=1), JSON, JSON)
def test_every_report_that_parses_gets_a_verdict(scopes: Any, sets: Any, search: Any, value: Any) -> None:
    """The contract leaves parts of a report open, and reports are posted by strangers."""
    document = build_document()
    document["request"] |= {"scopes": scopes, "sets": sets, "search": search, "objective": value}
    document["breaking_points"][0] |= {"limit": {"metric": value, "drop": value}, "set": {"norm": value, "scale": value}}
    report = Report.model_validate(document)
    policy = build_policy(
        {"where": {"norm": 2}, "require": {"breaking_point_at_least": 0.01}},
        {"require": {"breaking_point_at_least": 0.01}},
        requires={"search": {"method": "first_order", "budget_passes_at_least": 1}},
        regression={"loss_change_ratio_at_most": 2},
    )
    assert evaluate(policy, report, REPORT_SHA256, TODAY, (report, REPORT_SHA256)).outcome in RANK


def test_the_verdict_names_what_it_is_about() -> None:
    policy = build_policy({"require": {"loss_change_at_most": 5}})
    verdict = judge(policy)
    spelled = json.dumps(policy.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert verdict.policy_sha256 == compute_sha256(spelled.encode())
    assert (verdict.report_sha256, verdict.model_sha256, verdict.policy_name) == (REPORT_SHA256, MODEL_SHA256, "test")
    assert verdict.assurance == "searched"


def test_the_policy_s_digest_does_not_depend_on_its_spelling() -> None:
    short = build_policy({"require": {"loss_change_at_most": 1}})
    long = Policy.model_validate(short.model_dump(mode="json"))
    assert judge(short).policy_sha256 == judge(long).policy_sha256
    assert judge(short).policy_sha256 != judge(build_policy({"require": {"loss_change_at_most": 2}})).policy_sha256
