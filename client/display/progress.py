"""Live progress: a bar on a terminal, plain lines at most every few seconds elsewhere."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

from schemas.job import Job
from schemas.problem import clean_text

LINE_EVERY_S = 5.0


class ProgressView:
    """Shows what is going on; use it as a context manager. Nothing of it goes to standard output."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started = time.monotonic()
        self._last_line = ("", 0.0)
        self._bar = _build_bar(console) if console.is_terminal else None
        self._task = self._bar.add_task("Starting", total=None) if self._bar is not None else None

    def __enter__(self) -> Self:
        """Start showing."""
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Take the bar away."""
        self.close()

    def tell(self, sentence: str) -> None:
        """Show what is being done."""
        self._show(sentence, None, None)

    def note(self, sentence: str) -> None:
        """Leave a line that stays when the bar is gone."""
        self._console.print(clean_text(sentence, 500), markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Take the bar away; nothing is shown after that."""
        if self._bar is not None:
            self._bar.stop()

    def show_bytes(self, text: str, done_bytes: int, total_bytes: int) -> None:
        """Show how much of a file has gone, in MB."""
        self._show(f"{text}, MB", done_bytes // 10**6, total_bytes // 10**6)

    def show_job(self, job: Job) -> None:
        """Show how far an audit is."""
        progress = job.progress
        if job.state == "running" and progress is not None and progress.total > 0:
            self._show(progress.phase.replace("_", " ").capitalize(), progress.done, progress.total)
        else:
            self._show(f"{job.kind.capitalize()} {job.id} is {job.state}", None, None)

    def _show(self, text: str, done: int | None, total: int | None) -> None:
        text = clean_text(text, 200)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=text, completed=done or 0, total=total)
            return
        now, (last_text, last_time) = time.monotonic(), self._last_line
        if text == last_text and now - last_time < LINE_EVERY_S:
            return
        self._last_line = (text, now)
        count = f" {done} of {total}" if total is not None else ""
        self._console.print(f"[{now - self._started:6.1f} s] {text}{count}", markup=False, highlight=False, soft_wrap=True)


class _CountColumn(MofNCompleteColumn):
    """Done of total, and nothing while the total is not known."""

    def render(self, task: Task) -> Text:
        """Return the count."""
        return Text() if task.total is None else super().render(task)


def _build_bar(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        _CountColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )
