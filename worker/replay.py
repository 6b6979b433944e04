"""Measure a report's counterexamples again: `python -m worker.replay --report R --model M --data D --counterexample ID=FILE`.

Bit flips stand in the report itself: `--flips` measures them all again.

Prints one JSON object per line: {"finding", "what", "reported", "remeasured", "agrees"}; "what" is the loss or a
metric. The exit code is 0 when all agree, 1 when one does not, 2 when it cannot be done.
"""

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from schemas.errors import FaultlineError
from schemas.problem import build_problem
from schemas.report import BitFlip, Finding, Report
from schemas.request import AuditRequest
from worker.audit import AuditInput
from worker.engine.counterexample import build_corruption, load_counterexample
from worker.engine.models.stored import Flip, apply_flips
from worker.engine.opening import Opened, open_session
from worker.engine.session import Evaluator, Session
from worker.engine.tally import Outcome
from worker.sampling import measure_again
from worker.sources import build_source

TOLERANCE = 1e-5
"""Two float32 computations agree within this share of |loss change| + clean loss; on the same kind of machine they are equal."""


def main() -> int:
    """Replay what the command line names."""
    parser = argparse.ArgumentParser(prog="worker.replay")
    for name in ("--report", "--model", "--data"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--counterexample", action="append", default=[], metavar="FINDING=FILE")
    parser.add_argument("--flips", action="store_true")
    parser.add_argument("--objective", type=Path)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    try:
        report = Report.model_validate_json(arguments.report.read_bytes())
        files = dict(_read_pairs(arguments.counterexample))
        rows = list(
            replay(
                report,
                arguments.model,
                arguments.data,
                files,
                arguments.device,
                loss=arguments.objective,
                with_flips=arguments.flips,
            ),
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


def replay(
    report: Report,
    model: Path,
    data: Path,
    files: dict[str, Path],
    device: str,
    *,
    loss: Path | None = None,
    with_flips: bool = False,
) -> Iterator[dict[str, Any]]:
    """Apply every counterexample, and the report's bit flips, to the model and yield figures side by side."""
    request = AuditRequest.model_validate(report.request)
    with tempfile.TemporaryDirectory(prefix="faultline-") as scratch:
        job = AuditInput(request, model, data, Path(scratch), device, report.environment.threads, loss_path=loss)
        source = replace(build_source(job), micro_batch=report.environment.micro_batch)
        opened = open_session(source)
        findings = {finding.id: finding for finding in report.findings}
        for identity, path in files.items():
            yield from _replay_one(opened, report, findings[identity], path)
        if with_flips:
            yield from _replay_flips(opened.session, report)


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
            value = _read_outcome(outcome, what, report)
        else:
            value = measure_again(opened.population, evaluator.layout.apply(corruption), what, finding.measured)
        reported = finding.measured.loss_change if what == "loss" else finding.measured.metrics[what].value
        yield _compare(report, finding.id, what, reported, value)


def _replay_flips(session: Session, report: Report) -> Iterator[dict[str, Any]]:
    """Flip the bits that the report names, for each number of flips, and yield figures side by side."""
    program = session.program
    for place, section in enumerate(report.bit_flips, 1):
        for result in section.results:
            for what in ("loss", *result.metrics):
                own = None if what == "loss" else result.metrics[what].flips
                flips = [_read_flip(flip) for flip in (result.flips if own is None else own)]
                if flips:
                    changed = apply_flips(program.weights, program.storage, flips)
                    [outcome] = Evaluator(session, tuple(changed)).differentiate([changed])
                    reported = result.loss_change if what == "loss" else result.metrics[what].value
                    value = _read_outcome(outcome, what, report)
                    yield _compare(report, f"flips-{place}-{result.count}", what, reported, value)


def _read_flip(flip: BitFlip) -> Flip:
    return Flip(flip.tensor, flip.index, flip.bit, flip.kind, flip.old, math.nan if flip.new is None else flip.new)


def _read_outcome(outcome: Outcome, what: str, report: Report) -> float | None:
    change = None if outcome.loss is None else outcome.loss - report.clean.loss
    return change if what == "loss" else outcome.metrics[what]


def _compare(report: Report, finding: str, what: str, reported: float | None, value: float | None) -> dict[str, Any]:
    agrees = _agree(reported, value, report)
    return {"finding": finding, "what": what, "reported": reported, "remeasured": value, "agrees": agrees}


def _agree(reported: float | None, value: float | None, report: Report) -> bool:
    if reported is None or value is None:
        return reported is value
    return abs(reported - value) <= TOLERANCE * (abs(reported) + report.clean.loss)


if __name__ == "__main__":
    sys.exit(main())
