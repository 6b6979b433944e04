"""Problems for a person: each fault with its place, what was expected, what came, and what to do."""

from collections.abc import Sequence

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from client.errors import ProblemError
from schemas.errors import FaultlineError
from schemas.problem import Problem, ProblemItem, build_problem, clean_text


def print_error(console: Console, error: FaultlineError) -> None:
    """Print what went wrong, every fault of it."""
    problem = error.problem if isinstance(error, ProblemError) else build_problem(error)
    title = f"{error.title}: {problem.title}" if isinstance(error, ProblemError) else problem.title
    console.print(Text(clean_text(title), style="bold red"))
    print_faults(console, problem)


def print_faults(console: Console, problem: Problem) -> None:
    """Print a problem's faults, or its detail when it lists none."""
    if not problem.errors:
        console.print(Padding(Text(clean_text(problem.detail)), (0, 0, 0, 2), expand=False))
    print_items(console, problem.errors)


def print_items(console: Console, items: Sequence[ProblemItem]) -> None:
    """Print faults one below the other."""
    for item in items:
        console.print(Padding(Text(clean_text(item.what), style="bold"), (0, 0, 0, 2), expand=False))
        table = Table.grid(padding=(0, 1))
        table.add_column(no_wrap=True, style="dim")
        table.add_column(overflow="fold")
        for name, value in (("where", item.where), ("expected", item.expected), ("got", item.got), ("do", item.advice)):
            if value:
                table.add_row(name, Text(clean_text(value)))
        console.print(Padding(table, (0, 0, 0, 4), expand=False))
