"""A verdict for a person: every condition with its sentence, then what it all comes to."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from client.display.figures import one_line
from client.errors import ExitCode
from schemas.problem import clean_text
from schemas.verdict import Outcome, Verdict

STYLES: dict[str, str] = {"pass": "bold green", "warn": "bold yellow", "fail": "bold red", "inconclusive": "bold magenta"}
MEANINGS: dict[Outcome, str] = {
    "pass": "nothing above the limits was found with this method and budget",
    "warn": "passes, with warnings or waivers that somebody should look at",
    "fail": "do not deploy: a limit was exceeded",
    "inconclusive": "the report cannot answer the policy; this is not a pass",
}


def print_verdict(console: Console, verdict: Verdict) -> None:
    """Print every part of the verdict; the last line comes with the exit code, from `print_outcome`."""
    console.print(Text(f"Verdict by policy {clean_text(verdict.policy_name, 200)}", style="bold"))
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for requirement in verdict.requires:
        table.add_row(_draw_outcome(requirement.outcome), _draw_line(requirement.name, requirement.message))
    for condition in verdict.conditions:
        table.add_row(_draw_outcome(condition.outcome), _draw_line(condition.id, condition.message))
    if verdict.regression is not None:
        table.add_row(_draw_outcome(verdict.regression.outcome), _draw_line("regression", " ".join(verdict.regression.messages)))
    for reason in verdict.reasons:
        table.add_row(Text("  note", style="magenta"), Text(clean_text(reason)))
    for waiver in verdict.expired_waivers:
        scope = f" on {waiver.scope}" if waiver.scope is not None else ""
        message = f"the waiver of {waiver.condition}{scope} by {waiver.owner} ended on {waiver.expires} and no longer counts"
        table.add_row(Text("  note", style="yellow"), Text(clean_text(message)))
    if verdict.assurance == "certified":
        table.add_row(Text("  note", style="green"), Text("Certified: upper bounds prove every condition."))
    table.add_row(Text("  note", style="dim"), Text(clean_text(verdict.coverage.message), style="dim"))
    console.print(table)
    console.print()


def print_outcome(console: Console, outcome: Outcome, exit_code: ExitCode) -> None:
    """Print the last line: the outcome, what it means, and the exit code."""
    line = Text("Verdict: ").append(outcome.upper(), style=STYLES[outcome])
    console.print(line.append(f" ({MEANINGS[outcome]}), exit code {int(exit_code)}"))


def _draw_outcome(outcome: Outcome) -> Text:
    return Text(f"  {outcome}", style=STYLES[outcome])


def _draw_line(name: str, message: str) -> Text:
    return Text.assemble((one_line(name) + ": ", "bold"), clean_text(message))
