"""From a verdict to an exit code, with what the caller decided about doubt and delay."""

from typing import Literal

from client.errors import ExitCode
from schemas.verdict import Outcome

Leniency = Literal["fail", "warn", "pass"]
LENIENCIES: tuple[Leniency, ...] = ("fail", "warn", "pass")

_CODES: dict[Outcome, ExitCode] = {
    "pass": ExitCode.SUCCESS,
    "warn": ExitCode.SUCCESS,
    "fail": ExitCode.GATE_FAILED,
    "inconclusive": ExitCode.INCONCLUSIVE,
}


def choose_code(outcome: Outcome, on_inconclusive: Leniency) -> ExitCode:
    """Return the exit code of a verdict; `on_inconclusive` other than fail lets doubt through.

    >>> int(choose_code("inconclusive", "fail")), int(choose_code("inconclusive", "warn")), int(choose_code("fail", "pass"))
    (2, 0, 1)
    """
    if outcome == "inconclusive" and on_inconclusive != "fail":
        return ExitCode.SUCCESS
    return _CODES[outcome]
