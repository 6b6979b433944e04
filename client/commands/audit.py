"""`faultline audit`: one audit from files to a verdict."""

from pathlib import Path
from typing import Any

import click

from client.commands.requesting import take_request, take_wait
from client.commands.shared import READABLE, describe_result, read_baseline, read_where, take_json, take_leniency, take_server
from client.connection import connect
from client.decision import LENIENCIES, Leniency, choose_code
from client.display.consoles import build_messages, build_output, write_json
from client.display.progress import ProgressView
from client.display.report import print_report
from client.display.verdict import print_outcome, print_verdict
from client.errors import ExitCode, GaveUp
from client.files import check_writable
from client.options import AuditOptions, prepare_audit
from client.running import FinishedAudit, run_audit

HELP = """Audit MODEL on labelled data: find the small weight changes that hurt most.

Without --server and FAULTLINE_URL, the service that runs in this folder is used, or one is started for the call.
"""


@click.command(help=HELP, short_help="Audit a model on labelled data.")
@take_request
@click.option("--baseline", metavar="REPORT|ID", help="Earlier report, for a policy that limits regressions.")
@take_wait
@click.option(
    "--on-timeout", type=click.Choice(LENIENCIES), default="fail", show_default=True, help="What a timeout is; fail keeps 4."
)
@click.option("--report-out", type=READABLE, help="Write the JSON report into this file.")
@take_leniency
@take_json
@take_server
def audit(
    *,
    server: str | None,
    data_dir: Path | None,
    baseline: str | None,
    wait_s: float,
    on_timeout: Leniency,
    on_inconclusive: Leniency,
    report_out: Path | None,
    as_json: bool,
    **options: Any,
) -> ExitCode:
    """Run one audit and tell what it found."""
    check_writable(report_out)
    prepared = prepare_audit(AuditOptions(**options))
    earlier = read_baseline(baseline)
    with ProgressView(build_messages()) as view, connect(read_where(server, data_dir), view.tell, may_start=True) as connected:
        try:
            finished = run_audit(connected.client, prepared, earlier, view, wait_s)
        except GaveUp as error:
            view.close()
            if connected.for_this_call:
                view.note("The service of this call stops now; the audit goes on when a command in this folder starts one again.")
            if on_timeout == "fail":
                raise
            view.note(f"{error.faults[0].what}. {error.faults[0].advice}")
            return _show_timeout(error, as_json=as_json)
        view.close()
        if report_out is not None:
            report_out.write_bytes(finished.report.content)
        return _show(finished, on_inconclusive, as_json=as_json)


def _show(finished: FinishedAudit, on_inconclusive: Leniency, *, as_json: bool) -> ExitCode:
    verdict = finished.verdict
    code = ExitCode.SUCCESS if verdict is None else choose_code(verdict.outcome, on_inconclusive)
    if as_json:
        write_json(describe_result(finished.job, code, finished.report.sha256, verdict))
        return code
    output = build_output()
    print_report(output, finished.report.report)
    if verdict is None:
        output.print(f"No policy was given, so nothing was judged, exit code {int(code)}")
    else:
        print_verdict(output, verdict)
        print_outcome(output, verdict.outcome, code)
    return code


def _show_timeout(error: GaveUp, *, as_json: bool) -> ExitCode:
    """Let a timeout through, as the caller asked."""
    if as_json:
        write_json(describe_result(error.job, ExitCode.SUCCESS))
    return ExitCode.SUCCESS
