"""Program: one process of the deployment, restarted when it dies, stopped when asked."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

TETHER = Path(__file__).with_name("tether.py")
FIRST_DELAY_S = 0.5
MAX_DELAY_S = 30.0
STEADY_S = 60.0
"""A process that ran for so long starts again without delay the next time it dies."""
MAX_LOG_BYTES = 8 * 2**20
TAIL_BYTES = 4000


@dataclass(frozen=True)
class ProgramSpec:
    """What to run, and how long it gets to stop."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)  # it may hold secrets
    log: Path
    stop_s: float
    inherited: tuple[int, ...] = ()


class Program:
    """A process in its own session, so that Ctrl-C reaches only its keeper; it dies with the thread that started it."""

    def __init__(self, spec: ProgramSpec) -> None:
        self.spec = spec
        self.deaths = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._delay_s = 0.0
        self._started_at = 0.0
        self._start_again_at = 0.0

    @property
    def was_started(self) -> bool:
        """Whether `start` was called."""
        return self._started_at > 0

    @property
    def pid(self) -> int | None:
        """The running process, None when it has died or was stopped."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the process; its output is appended to its log."""
        _rotate(self.spec.log)
        with self.spec.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(TETHER), str(os.getpid()), *self.spec.command],
                env=dict(self.spec.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=self.spec.inherited,
                start_new_session=True,
            )
        self._started_at = time.monotonic()

    def tend(self) -> int | None:
        """Start the process again when it has died and its delay is over; return the exit code of a death just noticed."""
        now = time.monotonic()
        if self._process is None:
            if now >= self._start_again_at:
                self.start()
            return None
        code = self._process.poll()
        if code is None:
            return None
        self._process = None
        self.deaths += 1
        steady = now - self._started_at > STEADY_S
        self._delay_s = 0.0 if steady else min(max(self._delay_s * 2, FIRST_DELAY_S), MAX_DELAY_S)
        self._start_again_at = now + self._delay_s
        return code

    def ask_to_stop(self) -> None:
        """Send SIGTERM."""
        if self._process is not None:
            self._process.terminate()

    def wait(self, timeout_s: float) -> bool:
        """Wait for the end; True when the process is gone."""
        if self._process is None:
            return True
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        self._process = None
        return True

    def kill(self) -> None:
        """End the process and its group at once."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def read_log_tail(self) -> str:
        """Return the end of the log."""
        with self.spec.log.open("rb") as log:
            log.seek(max(0, self.spec.log.stat().st_size - TAIL_BYTES))
            return log.read().decode(errors="replace")


def _rotate(log: Path) -> None:
    if log.exists() and log.stat().st_size > MAX_LOG_BYTES:
        log.replace(log.with_suffix(".old"))
