"""Patience: how long a fetch may take, how long it may be silent, and who may interrupt it."""

import selectors
import ssl
import time
from collections.abc import Callable
from socket import socket
from typing import Final, TypeVar

from schemas.errors import Fault, FetchFailed

SLICE_S: Final = 0.1
T = TypeVar("T")


class Transient(Exception):
    """It failed, and may succeed when it is tried again. `wait_s`: what the server asks to be given."""

    def __init__(self, why: str, wait_s: float = 0.0) -> None:
        super().__init__(why)
        self.wait_s = wait_s


class Patience:
    """Made for one file: `limit_s` is for all of it, `silence_s` for each wait; `check_interrupted` raises to end it at once."""

    def __init__(self, limit_s: float, silence_s: float, check_interrupted: Callable[[], None] = lambda: None) -> None:
        self._limit_s = limit_s
        self._silence_s = silence_s
        self._deadline = time.monotonic() + limit_s
        self._check_interrupted = check_interrupted

    def check(self) -> None:
        """Return while there is time and nobody interrupts.

        Raises:
            FetchFailed: when the time is up.
        """
        self._check_interrupted()
        if time.monotonic() >= self._deadline:
            limit = f"{self._limit_s:g} s"
            raise FetchFailed(
                Fault("the file did not arrive in time", expected=f"all of it within {limit}", got=f"{limit} are over")
            )

    def left_s(self) -> float:
        """Return the seconds until the time is up."""
        return max(0.0, self._deadline - time.monotonic())

    def sleep(self, seconds: float) -> None:
        """Wait, unless somebody interrupts or the time is up before."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.check()
            time.sleep(min(left, SLICE_S))

    def wait_until(self, holds: Callable[[float], bool], doing: str) -> None:
        """Wait until `holds(seconds)`, which itself waits for up to that long, says so.

        Raises:
            Transient: when it stays silent for too long.
        """
        silent_until = time.monotonic() + self._silence_s
        while True:
            self.check()
            if holds(SLICE_S):
                return
            if time.monotonic() >= silent_until:
                message = f"no answer within {self._silence_s:g} s while {doing}"
                raise Transient(message)

    def run(self, connection: socket, call: Callable[[], T], doing: str) -> T:
        """Return what `call` on a socket that never blocks returns in the end."""
        while True:
            self.check()
            try:
                return call()
            except (BlockingIOError, InterruptedError, ssl.SSLWantReadError):
                self.wait_for(connection, selectors.EVENT_READ, doing)
            except ssl.SSLWantWriteError:
                self.wait_for(connection, selectors.EVENT_WRITE, doing)

    def wait_for(self, connection: socket, event: int, doing: str) -> None:
        """Wait until the socket can be read or written."""
        with selectors.DefaultSelector() as selector:
            selector.register(connection, event)
            self.wait_until(lambda seconds: bool(selector.select(seconds)), doing)
