"""`faultline verdict`: a policy on a report that is there already; no audit is run."""

from datetime import UTC, date, datetime
from pathlib import Path

import click
from rich.text import Text

from client.commands.shared import READABLE, describe_result, read_baseline, read_where, take_json, take_leniency, take_server
from client.connection import Where, connect
from client.decision import Leniency, choose_code
from client.display.consoles import build_messages, build_output, write_json
from client.display.progress import ProgressView
from client.display.verdict import print_outcome, print_verdict
from client.errors import ExitCode
from client.files import LoadedReport, hash_file, load_policy, load_report
from gate.evaluate import evaluate
from schemas.policy import Policy
from schemas.verdict import Verdict


@click.command(short_help="Judge a report by a policy.")
@click.argument("named", metavar="ID|FILE")
@click.option("--policy", "policy_path", type=READABLE, required=True, help="Policy to judge the report by, YAML or JSON.")
@click.option("--baseline", metavar="REPORT|ID", help="Earlier report, for a policy that limits regressions.")
@click.option("--expect-model", type=READABLE, help="The file being deployed: its sha-256 must be the audited model's.")
@take_leniency
@take_json
@take_server
def verdict(
    *,
    named: str,
    policy_path: Path,
    baseline: str | None,
    expect_model: Path | None,
    on_inconclusive: Leniency,
    as_json: bool,
    server: str | None,
    data_dir: Path | None,
) -> ExitCode:
    """Judge the report of audit ID, or the one in FILE, by a policy. With files only, no service is needed."""
    policy = load_policy(policy_path)
    deployed = hash_file(expect_model) if expect_model is not None else None
    found = _judge(named, policy, read_baseline(baseline), read_where(server, data_dir))
    is_other = deployed is not None and deployed != found.model_sha256
    code = ExitCode.GATE_FAILED if is_other else choose_code(found.outcome, on_inconclusive)
    if as_json:
        write_json(describe_result(None, code, found.report_sha256, found) | {"deployed_sha256": deployed})
        return code
    output = build_output()
    print_verdict(output, found)
    if is_other:
        audited = f"The audited model has sha256 {found.model_sha256},"
        output.print(Text(f"Another model is being deployed. {audited} {expect_model} has {deployed}.", style="bold red"))
        output.print(Text("The verdict says nothing about it. Audit the file that you deploy."))
        output.print(f"Verdict: not about this model, exit code {int(code)}")
    else:
        print_outcome(output, found.outcome, code)
    return code


def _judge(named: str, policy: Policy, baseline: LoadedReport | str | None, where: Where) -> Verdict:
    """Judge here what lies here, and let the service judge what it holds."""
    if Path(named).is_file() and not isinstance(baseline, str):
        report, earlier = load_report(Path(named)), baseline
        return evaluate(policy, report.report, report.sha256, find_today(), earlier and (earlier.report, earlier.sha256))
    with ProgressView(build_messages()) as view, connect(where, view.tell, may_start=False) as connected:
        client = connected.client
        if not Path(named).is_file():
            return client.judge(policy, named, baseline.content if isinstance(baseline, LoadedReport) else baseline)
        report, fetched = load_report(Path(named)), client.fetch_report(str(baseline))
        return evaluate(policy, report.report, report.sha256, find_today(), (fetched.report, fetched.sha256))


def find_today() -> date:
    """Return the day that waivers expire against."""
    return datetime.now(UTC).date()
