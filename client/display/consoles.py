"""The two streams: results on standard output, everything else on standard error."""

import json
import os
import sys
from typing import IO, Any

from rich.console import Console

PLAIN_WIDTH = 100
"""Columns where there is no terminal and COLUMNS is not set, as in the log of a CI job."""


class _Console(Console):
    """A console that goes on silently when its reader went away: the exit code is still owed."""

    def on_broken_pipe(self) -> None:
        """Write into nothing from now on."""
        self.quiet = True
        silence(self.file.fileno())


def build_output(file: IO[str] | None = None) -> Console:
    """Return the console for results, which go to standard output or into a file."""
    return _build(file or sys.stdout)


def build_messages() -> Console:
    """Return the console for progress, notes and errors."""
    return _build(sys.stderr)


def write_json(content: dict[str, Any] | bytes) -> None:
    """Write one JSON document on standard output."""
    data = content if isinstance(content, bytes) else json.dumps(content, ensure_ascii=False, indent=2).encode()
    try:
        sys.stdout.buffer.write(data if data.endswith(b"\n") else data + b"\n")
        sys.stdout.flush()
    except BrokenPipeError:
        silence(sys.stdout.fileno())


def _build(stream: IO[str]) -> Console:
    width = None if stream.isatty() or os.environ.get("COLUMNS") else PLAIN_WIDTH
    return _Console(file=stream, width=width, highlight=False, markup=False, emoji=False)


def silence(descriptor: int) -> None:
    """Let what is written there go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
