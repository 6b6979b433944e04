"""What may be logged of an audit process's output: where it failed, never what it held. Values of the data stand in messages."""

import re
from collections.abc import Iterator

from schemas.problem import clean_text
from worker.settings import WorkerSettings

_FRAME = re.compile(r'\s+File "[^"\n]{1,300}", line \d{1,7}, in [\w<>.]{1,200}')
_ENDING = re.compile(r"([A-Za-z_][\w.]{0,100}(?:Error|Exception|Interrupt|Exit|Warning))\b")
_HEADS = frozenset(
    {
        "Traceback (most recent call last):",
        "During handling of the above exception, another exception occurred:",
        "The above exception was the direct cause of the following exception:",
        "Fatal Python error: Segmentation fault",
        "Fatal Python error: Aborted",
    }
)
MOST_LINES = 60


def show_output(text: str, settings: WorkerSettings) -> str:
    """Return what may be logged of `text`: all of it only where the operator says so."""
    tail = clean_text(text[-4000:], limit=8000)
    return tail if settings.log_audit_output else keep_places(tail)


def keep_places(text: str) -> str:
    r"""Return the frames and the names of exceptions of what a process wrote, and how many lines were left out.

    >>> print(keep_places('x = 7\nTraceback (most recent call last):\n  File "a.py", line 3, in f\n    f(7)\nValueError: 7'))
    Traceback (most recent call last):
      File "a.py", line 3, in f
    ValueError
    (2 lines left out)
    """
    lines = text.splitlines()
    kept = list(_choose(lines))
    left_out = len(lines) - len(kept)
    note = [f"({left_out} lines left out)"] if left_out else []
    return "\n".join([*kept[-MOST_LINES:], *note])


def _choose(lines: list[str]) -> Iterator[str]:
    for line in lines:
        if line.strip() in _HEADS or _FRAME.fullmatch(line):
            yield line
        elif not line.startswith(" ") and (found := _ENDING.match(line)):
            yield found[1]
