"""What a person reads: it fits the width, it says the figures, and no name from a file can touch the terminal."""

import io
import re
from collections.abc import Callable
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from client.display.comparison import compare_with_random
from client.display.consoles import build_output
from client.display.progress import ProgressView
from client.display.report import describe_point, print_report
from client.display.verdict import print_outcome, print_verdict
from client.errors import ExitCode
from gate.evaluate import evaluate
from schemas.job import Job
from schemas.report import BreakingPoint, Report
from tests.client.conftest import Inside
from tests.gate.reports import (
    REPORT_SHA256,
    build_changed,
    build_document,
    build_findings,
    build_point,
    build_policy,
    build_ranking,
    build_report,
)
from tests.gate.test_breaking_points import BRACKETS
from tests.gate.test_waivers import TODAY, WAIVER

HOSTILE = "a\x1b[2J\x1b]0;owned\x07\u202eb\r\nc"
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


def render(print_it: Callable[[Console], None], width: int = 100) -> str:
    console = Console(
        file=io.StringIO(), width=width, force_terminal=True, color_system="truecolor", highlight=False, markup=False
    )
    print_it(console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def read(report: Report, width: int = 100) -> str:
    return ESCAPES.sub("", render(lambda console: print_report(console, report), width))


def rename(finding: dict[str, object], name: str) -> None:
    finding["scope"] = {**finding["scope"], "name": name}  # type: ignore[dict-item]


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_nothing_is_wider_than_the_terminal(width: int) -> None:
    long = build_changed(lambda finding: rename(finding, "encoder.layers.11.self_attention.output.dense." + "x" * 60))
    for report in (build_report(), long):
        lines = read(report, width).splitlines()
        assert lines
        assert max(cell_len(line) for line in lines) <= width


def test_the_report_says_what_was_found() -> None:
    text = read(build_report())
    for figure in ("5,338 of 5,338 audited", "500 examples", "97.5 %", "features.3", "+2.4", "+0.001", "60.0 pt", "0.0219"):
        assert figure in text
    places = [
        text.index(name, text.index("epsilon 0.3", text.index("Most vulnerable")))
        for name in ("features.3", "features.0", "classifier")
    ]
    assert places == sorted(places)


def test_damage_that_is_not_finite_is_said() -> None:
    report = build_changed(lambda finding: finding["measured"].update(loss_change=None, non_finite={"examples": 2}))
    assert "not finite" in read(report)


def test_long_rankings_and_many_sets_are_cut_and_say_so() -> None:
    finding = build_findings()[2]
    findings = [{**finding, "id": f"f-{i}", "scope": {**finding["scope"], "name": f"layer.{i}"}} for i in range(30)]
    report = build_report(findings=findings, ranking=build_ranking(findings) * 3)
    text = read(report)
    assert "18 less vulnerable ones are in the JSON report" in text
    assert "2 more rankings are in the JSON report" in text


@pytest.mark.parametrize(("lo", "hi"), sorted({(lo, hi) for lo, hi, _, _ in BRACKETS}, key=str))
def test_every_breaking_point_reads_as_a_sentence(lo: float | None, hi: float | None) -> None:
    sentence = describe_point(BreakingPoint.model_validate(build_point(lo, hi)))
    assert sentence.startswith("the whole model under norm 2: ")
    assert sentence.endswith(".")
    assert "None" not in sentence


def test_chance_is_compared_with_the_search_in_words() -> None:
    first, second, theory = compare_with_random(build_report())
    assert "900 times less" in first
    assert "3,600 times less" in second
    assert "10^335" in theory


def test_without_random_trials_nothing_is_compared() -> None:
    report = build_changed(lambda finding: finding.update(random=None))
    assert compare_with_random(report) == []


def test_names_from_files_cannot_touch_the_terminal() -> None:
    document = build_document()
    document["findings"] = [{**finding, "scope": {**finding["scope"], "name": HOSTILE}} for finding in build_findings()]
    document["ranking"] = build_ranking(document["findings"])
    document["subject"]["model"]["producer"] = HOSTILE
    document["clean"]["metrics"][HOSTILE] = 1.0
    document["flags"] = [{"code": HOSTILE, "severity": "critical", "scope": HOSTILE, "evidence": {}, "advice": HOSTILE}]
    report = Report.model_validate(document)
    policy = build_policy(
        {"require": {"loss_change_at_most": 0.01}}, {"where": {"scope": HOSTILE}, "require": {"loss_change_at_most": 9}}
    )
    verdict = evaluate(policy, report, REPORT_SHA256, TODAY)
    text = render(lambda console: print_report(console, report)) + render(lambda console: print_verdict(console, verdict))
    left = ESCAPES.sub("", text)
    assert "owned" in left
    assert {c for c in left if not c.isprintable()} == {"\n"}


def test_a_verdict_shows_every_part() -> None:
    policy = build_policy(
        {"id": "weak", "require": {"loss_change_at_most": 0.5}},
        requires={"examples_at_least": 1000},
        regression={"loss_change_ratio_at_most": 2},
        waivers=[WAIVER | {"condition": "weak", "expires": "2020-01-01"}],
    )
    flag: dict[str, object] = {
        "code": "chance_level",
        "severity": "critical",
        "scope": None,
        "evidence": {},
        "advice": "Train it.",
    }
    verdict = evaluate(policy, build_report(flags=[flag]), REPORT_SHA256, TODAY)
    text = ESCAPES.sub("", render(lambda console: print_verdict(console, verdict)))
    for part in (
        "fail",
        "weak:",
        "inconclusive",
        "examples_at_least:",
        "regression:",
        "chance_level",
        "ended on 2020-01-01",
        "audited",
    ):
        assert part in text


def test_the_last_line_is_the_outcome_and_the_exit_code() -> None:
    text = ESCAPES.sub("", render(lambda console: print_outcome(console, "warn", ExitCode.SUCCESS), 300))
    assert text == "Verdict: WARN (passes, with warnings or waivers that somebody should look at), exit code 0\n"


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch, inside: Inside) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[" in inside("report", "report.json")[1]
    monkeypatch.setenv("NO_COLOR", "1")
    coloured = re.findall(r"\x1b\[[0-9;]*3[0-9][0-9;]*m", inside("report", "report.json")[1])
    assert coloured == []


def test_a_log_without_a_terminal_has_a_fixed_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert build_output(io.StringIO()).width == 100
    monkeypatch.setenv("COLUMNS", "72")
    assert build_output(io.StringIO()).width == 72


def build_job(done: int, total: int) -> Job:
    times = {"created_at": "2026-01-01T00:00:00Z", "started_at": None, "ended_at": None}
    return Job.model_validate(
        {
            "schema_version": 1,
            "id": "j",
            "state": "running",
            "revision": done,
            **times,
            "attempt": 1,
            "cancel_requested": False,
            "progress": {"phase": "breaking_points", "done": done, "total": total, "eta_s": None},
            "request_digest": "0" * 64,
            "report": None,
            "problem": None,
            "verdict": None,
            "timings": {"queued_s": None, "running_s": None},
            "labels": {},
            "links": {},
        }
    )


def test_progress_in_a_log_is_few_plain_lines() -> None:
    console = Console(file=io.StringIO(), width=100)
    with ProgressView(console) as view:
        view.tell("Submitting")
        for done in range(200):
            view.show_job(build_job(done, 200))
        view.note("kept")
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert [line.partition("] ")[2] for line in lines[:2]] == ["Submitting", "Breaking points 0 of 200"]
    assert lines[2:] == ["kept"]


def test_progress_on_a_terminal_is_a_bar_that_goes_away() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    with ProgressView(console) as view:
        view.show_job(build_job(50, 200))
        view.note("kept")
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "50/200" in text
    assert "kept\n" in text
    assert text.endswith("\x1b[2K"), "the bar's line is erased"


def test_bit_flips_and_held_out_figures_are_told_in_words() -> None:
    flips = {
        "match": "*",
        "kind": "lower_bound",
        "weights": 5338,
        "bits": 42704,
        "non_finite_flips": 0,
        "results": [
            {
                "count": 3,
                "loss_change": 2.31,
                "non_finite": None,
                "metrics": {"accuracy": {"value": 0.196, "drop": 0.779}},
                "flips": [],
            }
        ],
        "random": {
            "count": 3,
            "trials": 100,
            "seed": 0,
            "non_finite_trials": 0,
            "largest_loss_change": 0.01,
            "metrics": {"accuracy": {"worst": 0.972, "mean": 0.975}},
        },
        "stop_reason": "budget",
        "passes": {"forward": 27, "backward": 3},
    }
    limits = {
        "lower": 0.2,
        "upper": None,
        "confidence": 0.95,
        "method": "betting",
        "population": None,
        "sample": 400,
        "asymptotic": False,
    }

    def hold_out(finding: dict[str, object]) -> None:
        accuracy = {"value": 0.75, "value_interval": None, "drop": 0.225, "drop_interval": limits}
        finding["held_out"] = {"examples": 400, "loss_change": 0.5, "interval": None, "metrics": {"accuracy": accuracy}}

    document = build_changed(hold_out).model_dump(mode="json") | {"bit_flips": [flips]}
    text = " ".join(read(Report.model_validate(document)).split())
    assert "all weights (5,338, 42,704 bits): at most 3 searched flips change the loss by +2.31" in text
    assert "worsen accuracy by 77.9 points; the worst of 100 random draws of 3 worsens accuracy by 0.3 points." in text
    assert "accuracy worsens by 22.5 points (limits 0.2 to none, 95% each); the loss changes by +0.5 on 400 examples." in text


def test_samples_are_told_with_their_limits() -> None:
    limits = {"lower": 0.2, "upper": 0.25, "confidence": 0.95, "method": "betting", "population": 50000, "sample": 128}
    drop, exact = limits | {"asymptotic": False}, limits | {"method": "exact", "sample": 50000, "asymptotic": False}

    def draw(finding: dict[str, Any]) -> None:
        finding["measured"]["interval"] = exact
        finding["measured"]["metrics"]["accuracy"]["interval"] = drop

    document = build_changed(draw).model_dump(mode="json")
    document["subject"]["data"] |= {"examples": 50000, "sampled": True, "search_examples": 2000}
    document["clean"]["metric_intervals"] = {"accuracy": drop}
    document["breaking_points"][0] |= {"observed": 0.225, "interval": drop}
    text = " ".join(read(Report.model_validate(document)).split())
    assert "50,000 examples, searched on 2,000 of them" in text
    assert "Measured there: 22.5 points (limits 0.2 to 0.25, 95% each) from 128 examples." in text
    assert "The unchanged model: accuracy 97.5 % (limits 0.2 to 0.25, 95% each) from 128 examples; loss 0.0812." in text
    assert (
        "accuracy worsens by 22.5 points (limits 0.2 to 0.25, 95% each) from 128 examples; the loss changes by +0.9 (exactly"
        in text
    )
    assert "On samples of the data" not in read(build_report())


def test_rankings_and_sets_of_every_kind_are_named() -> None:
    document = build_document()
    given = {"norm": "inf", "epsilon": 1.0, "max_corrupted": None, "scale": "rounding_int8_per_channel"}
    document["ranking"][0] |= {"kind": "per_component", "set": given}
    document["ranking"][1]["set"]["scale"] = "elementwise"
    text = read(Report.model_validate(document))
    assert "Most vulnerable components: int8 per channel rounding" in text
    assert "norm 2, epsilon 0.3 (elementwise scale)" in text


def test_what_can_be_compared_with_another_model_is_said() -> None:
    entry = {"scale": "absolute", "invariant_to": [], "between_models": False, "reason": "the set is in the units of the weights"}
    good = {
        "figure": "accuracy",
        "scale": "tensor",
        "invariant_to": ["logit_scale"],
        "between_models": True,
        "reason": "the same",
    }
    document = build_document() | {"comparability": [entry | {"figure": "loss_change"}, good]}
    text = " ".join(read(Report.model_validate(document)).split())
    assert "The same for two models on the same data: accuracy (tensor sets)." in text
    assert "Not comparable between models: loss change (absolute sets)." in text
    assert "Why not: the set is in the units of the weights." in text
