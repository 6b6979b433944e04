"""Waits for what happens behind an answer."""

import time
from collections.abc import Callable


def eventually(holds: Callable[[], bool], within_s: float = 10.0) -> None:
    """Return once `holds` is true; fail when it is not in time."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)
