"""One audit process as the supervisor holds it: its pipes, its scratch folder, its end."""

import contextlib
import os
import selectors
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from worker.messages import ChildMessage, encode_line, parse_line, refuse_output

LOG_BYTES = 64 * 1024
CHUNK = 1 << 16


class ChildCrashed(Exception):
    """The audit process ended without a result; `returncode` is negative for a signal."""

    def __init__(self, returncode: int) -> None:
        self.returncode = returncode
        named = f"signal {signal.Signals(-returncode).name}" if returncode < 0 else f"exit code {returncode}"
        super().__init__(f"the audit process ended without a result: {named}")


@dataclass(frozen=True)
class ChildSpec:
    """How to start an audit process. `{parent}` in the command is replaced by the starter's process id."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    output_bytes: int


class Child:
    """A started audit process in its own session and process group.

    Create it only on a thread that lives as long as this process: the child dies with that thread.
    """

    def __init__(self, spec: ChildSpec, scratch: Path) -> None:
        scratch.mkdir(mode=0o700, parents=True)
        self.scratch = scratch
        self.returncode: int | None = None
        self._room = spec.output_bytes
        self._parts: list[bytes] = []
        self._log = b""
        self._process = subprocess.Popen(
            _fill_in(spec.command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=scratch,
            env={**spec.environment, "HOME": str(scratch), "TMPDIR": str(scratch)},
            start_new_session=True,
        )
        self.pid = self._process.pid
        self._selector = selectors.DefaultSelector()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                os.set_blocking(pipe.fileno(), False)
                self._selector.register(pipe, selectors.EVENT_READ)

    @property
    def log(self) -> str:
        """The end of what the process wrote to its log. Untrusted: escape it before showing it."""
        return self._log.decode(errors="replace")

    def send(self, message: BaseModel, timeout_s: float) -> None:
        """Write one line to the process without ever blocking for longer than `timeout_s`."""
        pipe, deadline = self._process.stdin, time.monotonic() + timeout_s
        line = memoryview(encode_line(message))
        if pipe is None:
            return
        os.set_blocking(pipe.fileno(), False)
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_WRITE)
            while line and time.monotonic() < deadline:
                if selector.select(0.1):
                    try:
                        line = line[os.write(pipe.fileno(), line) :]
                    except BrokenPipeError:
                        return  # it died; `receive` says so with its exit status
        if line:
            refuse_output("it did not take its job")

    def receive(self, timeout_s: float) -> list[ChildMessage]:
        """Return the messages that have come, waiting up to `timeout_s` for the first.

        Raises:
            WorkerFault: when the process says what it must not, or too much.
            ChildCrashed: when it ended and there is nothing more to read.
        """
        lines: list[bytes] = []
        if self.has_ended():
            self._kill_group()  # so that nobody is left to write
            while self._read_ready(0, lines):
                pass
            if not lines:
                raise ChildCrashed(self.kill())
        else:
            self._read_ready(timeout_s, lines)
        return [parse_line(line) for line in lines]

    def _read_ready(self, timeout_s: float, lines: list[bytes]) -> bool:
        """Append the complete lines that can be read to `lines`; False when there was nothing to read."""
        ready = self._selector.select(timeout_s)
        for key, _ in ready:
            chunk = os.read(key.fd, CHUNK)
            if not chunk:
                self._selector.unregister(key.fileobj)
            elif key.fileobj is self._process.stderr:
                self._log = (self._log + chunk)[-LOG_BYTES:]
            else:
                lines += self._split(chunk)
        return bool(ready)

    def _split(self, chunk: bytes) -> list[bytes]:
        self._room -= len(chunk)
        if self._room < 0:
            refuse_output("more output than the limit allows")
        head, newline, tail = chunk.rpartition(b"\n")
        if not newline:  # part of a long line: joined once, when its end comes
            self._parts.append(tail)
            return []
        lines = b"".join([*self._parts, head]).split(b"\n")
        self._parts = [tail]
        return lines

    def has_ended(self) -> bool:
        """Tell whether the process is dead; it stays in the process table until `kill`."""
        # WNOWAIT leaves the dead process in place, so that its group id cannot be given to another one before `kill`.
        return self.returncode is not None or os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def kill(self) -> int:
        """End the process and everything in its group, and return its exit status; idempotent."""
        if self.returncode is None:
            self._kill_group()
            self.returncode = self._process.wait()
        return self.returncode

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def discard(self) -> None:
        """End the process and remove its scratch folder."""
        self.kill()
        self._selector.close()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        shutil.rmtree(self.scratch, ignore_errors=True)


def _fill_in(command: Sequence[str]) -> list[str]:
    return [part.replace("{parent}", str(os.getpid())) for part in command]
