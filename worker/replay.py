"""Measure a report's counterexamples again: `python -m worker.replay --report R --model M --data D --counterexample ID=FILE`.

Prints one JSON object per line: {"finding", "what", "reported", "remeasured", "agrees"}; "what" is the loss or a
metric. The exit code is 0 when all agree, 1 when one does not, 2 when it cannot be done.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from schemas.errors import FaultlineError
from schemas.problem import build_problem
from schemas.report import Finding, Report
from schemas.request import AuditRequest
from worker.audit import AuditInput
from worker.engine.counterexample import build_corruption, load_counterexample
from worker.engine.opening import Opened, open_session
from worker.engine.session import Evaluator
from worker.sampling import measure_again
from worker.sources import build_source

TOLERANCE = 1e-5
"""Two float32 computations agree within this share of |loss change| + clean loss; on the same kind of machine they are equal."""


def main() -> int:
    """Replay what the command line names."""
    parser = argparse.ArgumentParser(prog="worker.replay")
    for name in ("--report", "--model", "--data"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--counterexample", action="append", required=True, metavar="FINDING=FILE")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    try:
        report = Report.model_validate_json(arguments.report.read_bytes())
        rows = list(
            replay(report, arguments.model, arguments.data, dict(_read_pairs(arguments.counterexample)), arguments.device)
        )
    except FaultlineError as error:
        sys.stdout.write(build_problem(error).model_dump_json() + "\n")
        return 2
    for row in rows:
        sys.stdout.write(json.dumps(row, sort_keys=True) + "\n")
    return 0 if all(row["agrees"] for row in rows) else 1


def _read_pairs(pairs: list[str]) -> Iterator[tuple[str, Path]]:
    for pair in pairs:
        finding, _, path = pair.partition("=")
        yield finding, Path(path)


def replay(report: Report, model: Path, data: Path, files: dict[str, Path], device: str) -> Iterator[dict[str, Any]]:
    """Apply every counterexample to the model and yield reported and measured figures side by side."""
    request = AuditRequest.model_validate(report.request)
    with tempfile.TemporaryDirectory(prefix="faultline-") as scratch:
        job = AuditInput(request, model, data, Path(scratch), device, report.environment.threads)
        source = replace(build_source(job), micro_batch=report.environment.micro_batch)
        opened = open_session(source)
        findings = {finding.id: finding for finding in report.findings}
        for identity, path in files.items():
            yield from _replay_one(opened, report, findings[identity], path)


def _replay_one(opened: Opened, report: Report, finding: Finding, path: Path) -> Iterator[dict[str, Any]]:
    session, pieces = opened.session, load_counterexample(path)
    names = sorted({name for entry in pieces.values() for name in entry})
    if not names:
        return
    evaluator = Evaluator(session, names)
    weights = {name: session.program.weights[name] for name in names}
    for what in ("loss", *finding.measured.metrics):
        corruption = build_corruption(pieces.get(what, pieces["loss"]), weights)
        [outcome] = evaluator.measure([corruption])
        if opened.population is None or (what == "loss" and outcome.non_finite):
            change = None if outcome.loss is None else outcome.loss - report.clean.loss
            value = change if what == "loss" else outcome.metrics[what]
        else:
            value = measure_again(opened.population, evaluator.layout.apply(corruption), what, finding.measured)
        reported = finding.measured.loss_change if what == "loss" else finding.measured.metrics[what].value
        yield {
            "finding": finding.id,
            "what": what,
            "reported": reported,
            "remeasured": value,
            "agrees": _agree(reported, value, report),
        }


def _agree(reported: float | None, value: float | None, report: Report) -> bool:
    if reported is None or value is None:
        return reported is value
    return abs(reported - value) <= TOLERANCE * (abs(reported) + report.clean.loss)


if __name__ == "__main__":
    sys.exit(main())
