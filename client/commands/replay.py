"""`faultline replay`: measure a report's counterexamples again."""

import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from client.commands.shared import READABLE, read_where, take_json, take_server
from client.connection import connect
from client.display.consoles import build_messages, build_output, write_json
from client.display.figures import NOTHING, one_line
from client.display.progress import ProgressView
from client.embedded import build_command, build_environment, check_installed
from client.errors import AuditFailed, BadAnswer, BadUsage, ExitCode
from client.files import hash_file, load_report
from client.packing import find_file
from schemas.errors import Fault
from schemas.problem import Problem
from schemas.report import Report

CANNOT = 2
NEEDED = ("torch", "onnx", "onnxruntime")


@click.command(short_help="Measure a report's counterexamples again.")
@click.argument("report_path", metavar="REPORT", type=READABLE)
@click.option("--model", type=READABLE, required=True, help="The audited model file.")
@click.option("--data", type=READABLE, required=True, help="The data file or folder of the audit.")
@click.option("--objective", type=READABLE, help="The file that computed the loss, where one did.")
@click.option("--finding", "wanted", multiple=True, metavar="ID", help="Only this finding, no bit flips; may be repeated.")
@click.option(
    "--counterexample",
    "given",
    multiple=True,
    metavar="[ID=]FILE",
    help="A counterexample on this machine, so that no service is asked.",
)
@take_json
@take_server
def replay(
    *,
    report_path: Path,
    wanted: tuple[str, ...],
    given: tuple[str, ...],
    as_json: bool,
    server: str | None,
    data_dir: Path | None,
    **subject_files: Path | None,
) -> ExitCode:
    """Apply the corruptions and bit flips that REPORT keeps to the model and compare what they do with what the report says."""
    check_installed("replay", *NEEDED)
    report, subject = load_report(report_path).report, {name: find_file(path) for name, path in subject_files.items() if path}
    _check_subject(report, subject)
    digests = choose_counterexamples(report, wanted)
    with tempfile.TemporaryDirectory(prefix="faultline-") as folder, ProgressView(build_messages()) as view:
        files = read_given(given, digests)
        missing = [finding for finding in digests if finding not in files]
        if missing:
            with connect(read_where(server, data_dir), view.tell, may_start=False) as connected:
                for finding in missing:
                    files[finding] = Path(folder) / f"{len(files)}.npz"
                    view.tell(f"Fetching the counterexample of {finding}")
                    connected.client.download(digests[finding], files[finding])
        view.tell("Measuring again")
        rows = _measure(report_path, subject, files, with_flips=not wanted and bool(report.bit_flips))
        view.close()
    agrees = all(row["agrees"] for row in rows)
    code = ExitCode.SUCCESS if agrees else ExitCode.GATE_FAILED
    if as_json:
        write_json({"rows": rows, "agrees": agrees, "exit_code": int(code)})
    else:
        _print_rows(build_output(), rows, code)
    return code


def choose_counterexamples(report: Report, wanted: Sequence[str]) -> dict[str, str]:
    """Return the digests of the counterexamples to replay, by finding: all that the report keeps, or the ones that are wanted.

    Raises:
        BadUsage: when the report does not keep one.

    """
    kept = {entry.finding: entry.artifact.rpartition(":")[2] for entry in report.counterexamples}
    absent = [finding for finding in wanted if finding not in kept]
    expected = f"one of {', '.join(kept)}" if kept else "a report with counterexamples"
    advice = "Leave --finding out to replay all that are kept; the report keeps the worst finding of each set."
    faults = [
        Fault(f"the report keeps no counterexample of {finding}", "--finding", expected, finding, advice) for finding in absent
    ]
    if not kept and not faults and not report.bit_flips:
        faults = [
            Fault(
                "the report keeps no counterexamples", "REPORT", expected, "none", "Audit again with fewer weights or findings."
            )
        ]
    if faults:
        raise BadUsage(*faults)
    return {finding: kept[finding] for finding in wanted or kept}


def read_given(given: Sequence[str], digests: dict[str, str]) -> dict[str, Path]:
    """Return the files named by --counterexample, by finding; each is checked against the report's digest.

    Raises:
        BadUsage: when a file is not the one that the report keeps.

    """
    files: dict[str, Path] = {}
    faults = []
    for text in given:
        finding, equals, name = text.partition("=")
        if not equals:
            finding, name = next(iter(digests)), text
        if finding not in digests or (not equals and len(digests) > 1):
            expected = f"FINDING=FILE, with one of {', '.join(digests)}"
            faults.append(
                Fault("--counterexample names no finding", "--counterexample", expected, text, "Write it as FINDING=FILE.")
            )
            continue
        digest = hash_file(Path(name))
        if digest != digests[finding]:
            what = f"{name} is not the counterexample of {finding}"
            faults.append(
                Fault(what, "--counterexample", digests[finding], digest, "Fetch it from the service: leave the option out.")
            )
        files[finding] = Path(name)
    if faults:
        raise BadUsage(*faults)
    return files


def _check_subject(report: Report, subject: dict[str, Path]) -> None:
    """Check that the files are those that the report is about."""
    loss = report.subject.objective
    pairs = {"model": report.subject.model.sha256, "data": report.subject.data.sha256}
    pairs |= {} if loss is None else {"objective": loss.sha256}
    advice = "Name the file that was audited; figures of another one have nothing to agree with."
    faults = [
        Fault(f"{subject.get(name, 'no file')} is not what the report is about", f"--{name}", expected, got, advice)
        for name, expected in pairs.items()
        if (got := hash_file(subject[name]) if name in subject else "nothing") != expected
    ]
    if faults:
        raise BadUsage(*faults)


def _measure(report_path: Path, subject: dict[str, Path], files: dict[str, Path], *, with_flips: bool) -> list[dict[str, Any]]:
    """Run the worker's replay in a process of its own; models are opened nowhere else."""
    named = [part for finding, path in files.items() for part in ("--counterexample", f"{finding}={path}")]
    named += ["--flips"] if with_flips else []
    about = [part for name, path in subject.items() for part in (f"--{name}", str(path))]
    command = build_command("worker.replay", "--report", str(report_path), *about, *named)
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=build_environment(), check=False)
    try:
        lines = [json.loads(line) for line in done.stdout.splitlines()]
    except ValueError as error:
        raise BadAnswer(_describe_failure(done)) from error
    if done.returncode == CANNOT and lines:
        raise AuditFailed(Problem.model_validate(lines[-1]))
    if done.returncode not in {0, 1} or not lines:
        raise BadAnswer(_describe_failure(done))
    return lines


def _describe_failure(done: subprocess.CompletedProcess[str]) -> Fault:
    return Fault(
        "the measurement did not run",
        "worker.replay",
        "its figures",
        done.stderr[-2000:].strip() or f"exit code {done.returncode}",
    )


def _print_rows(console: Console, rows: Sequence[dict[str, Any]], code: ExitCode) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="dim")
    for name in ("finding", "figure", "reported", "measured again", ""):
        table.add_column(name, justify="right" if name in {"reported", "measured again"} else "left")
    for row in rows:
        figures = [NOTHING if row[name] is None else f"{row[name]:.6g}" for name in ("reported", "remeasured")]
        agrees = Text("agrees", style="green") if row["agrees"] else Text("differs", style="bold red")
        table.add_row(one_line(str(row["finding"])), one_line(str(row["what"])), *figures, agrees)
    console.print(table)
    differ = sum(not row["agrees"] for row in rows)
    what = (
        f"{differ} of {len(rows)} figures differ from the report" if differ else f"all {len(rows)} figures agree with the report"
    )
    console.print(f"Replay: {what}, exit code {int(code)}")
