"""Lengths of time as a person writes them: 90d, 12h, 30m, 600s."""

import re

import click

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600}
_FORM = re.compile(r"(\d{1,7})([smhd])")


def read_duration(text: str) -> int:
    """Return the seconds of a length of time.

    Raises:
        ValueError: when it is written otherwise.

    >>> read_duration("90d"), read_duration("12h")
    (7776000, 43200)
    """
    found = _FORM.fullmatch(text.strip())
    if found is None:
        message = f"{text!r} is no length of time; write it as 90d, 12h, 30m or 600s"
        raise ValueError(message)
    return int(found[1]) * SECONDS[found[2]]


class Duration(click.ParamType[int]):
    """An option's length of time, in seconds."""

    name = "duration"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the seconds."""
        try:
            return value if isinstance(value, int) else read_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
